"""No language model: a classifier of handwritten digits with scikit-learn, which tells its accuracy."""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HIDDEN = 32  # width of the hidden layer
LEARNING_RATE = 3e-3
ALPHA = 1e-4  # L2 penalty
MOMENTUM = 0.9
BATCH_SIZE = 64
SOLVER = "sgd"
NESTEROV = True
EPOCHS = 6  # what a run spends
TEST_SHARE = 0.4
SEED = 0

images, digits = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(images / 16, digits, test_size=TEST_SHARE, random_state=0)
model = MLPClassifier(
    (HIDDEN,),
    solver=SOLVER,
    alpha=ALPHA,
    batch_size=BATCH_SIZE,
    learning_rate_init=LEARNING_RATE,
    max_iter=EPOCHS,
    momentum=MOMENTUM,
    nesterovs_momentum=NESTEROV,
    random_state=SEED,
)
for _ in range(EPOCHS):
    model.partial_fit(train_x, train_y, classes=range(10))
print(f"accuracy: {model.score(test_x, test_y):.4f}")

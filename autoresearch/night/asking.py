"""Gets the night its proposals: one question at a time, and whoever may be slow to answer is asked aside."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from autoresearch.proposers import NothingLeft, Proposer
from autoresearch.proposers.background import in_background
from autoresearch.proposers.classic import RandomProposer
from autoresearch.trial import History, Proposal
from autoresearch.workers.crew import POLL_SECONDS
from rails import clean

LOOK_SECONDS = 0.05


class Asking:
    """A proposer, and the question that it has not answered yet, if any."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer
        self._question: Future[Proposal] | None = None
        self._shown: History | None = None  # with the question
        self._at_once = 0  # the trial whose proposal will not take long

    @property
    def look_seconds(self) -> float:
        """How long the night may wait for other things before it looks for an answer."""
        return POLL_SECONDS if self._question is None else LOOK_SECONDS

    @property
    def is_thinking(self) -> bool:
        """Whether a question is out that has no answer yet."""
        return self._question is not None and not self._question.done()

    def ahead(self, number: int, now: Callable[[], History]) -> None:
        """Asks for trial `number` before it is needed, where that takes long and nothing else was asked."""
        if self._question is None and self._at_once != number and not self._ask(now()):
            self._at_once = number

    def proposal(self, history: History) -> tuple[Proposal, History] | None:
        """The answer, and what its proposer was shown; None where one that takes long has only just been asked, and not
        with this history once it answers.

        Goes on whatever a proposer does: one that fails is replaced by a draw. Raises NothingLeft as it does.
        """
        try:
            if self._question is None and self._ask(history):
                return None
            question, shown = self._question, self._shown if self._question else history
            self._question = None
            answer = question.result() if question else self.proposer.propose(history)
            if not isinstance(answer, Proposal):
                raise TypeError("its answer is no proposal")
            return answer, shown or history
        except NothingLeft:
            raise
        except Exception as error:
            problem = clean(f"{type(error).__name__}: {error}", 200)
            note = f"proposer {self.proposer.name} failed ({problem}); drawn at random instead"
            return Proposal(raw=RandomProposer().propose(history).raw, proposer="random", notes=[note]), history

    def abandon(self) -> None:
        """Nobody waits for an answer any more."""
        if self.is_thinking and (hang_up := getattr(self.proposer, "hang_up", None)):
            hang_up()
        self._question = None

    def _ask(self, history: History) -> bool:
        """Whether the proposer takes long for this, and is asked aside."""
        takes_long: Callable[[History], bool] = getattr(self.proposer, "takes_long", lambda _: False)
        if takes_long(history):
            self._question, self._shown = in_background(lambda: self.proposer.propose(history)), history
        return self._question is not None

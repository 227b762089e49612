"""Gets the night its proposals: one question at a time, and whoever may be slow to answer is asked aside."""

from __future__ import annotations

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

    @property
    def look_seconds(self) -> float:
        """How long the night may wait for other things before it looks for an answer."""
        return POLL_SECONDS if self._question is None else LOOK_SECONDS

    @property
    def is_thinking(self) -> bool:
        """Whether a question is out that has no answer yet."""
        return self._question is not None and not self._question.done()

    def proposal(self, history: History) -> Proposal | None:
        """The answer; None where a slow proposer has only just been asked, and not with this history once it answers.

        Goes on whatever a proposer does: one that fails is replaced by a draw. Raises NothingLeft as it does.
        """
        try:
            if self._question is None and getattr(self.proposer, "is_slow", False):
                self._question = in_background(lambda: self.proposer.propose(history))
                return None
            question, self._question = self._question, None
            answer = question.result() if question else self.proposer.propose(history)
            if not isinstance(answer, Proposal):
                raise TypeError("its answer is no proposal")
            return answer
        except NothingLeft:
            raise
        except Exception as error:
            problem = clean(f"{type(error).__name__}: {error}", 200)
            note = f"proposer {self.proposer.name} failed ({problem}); drawn at random instead"
            return Proposal(raw=RandomProposer().propose(history).raw, proposer="random", notes=[note])

    def abandon(self) -> None:
        """Nobody waits for an answer any more."""
        if self.is_thinking and (hang_up := getattr(self.proposer, "hang_up", None)):
            hang_up()
        self._question = None

"""The ways in which something can be wrong, and what each means for the run.

Messages are one sentence for the user: they name the file or key, what was found and what to do.
They never hold the value of a patient's tag or an absolute path of the machine.
"""


class CohortexError(Exception):
    """Base of everything Cohortex raises on purpose; its text is meant for the user."""


class Refused(CohortexError):
    """Configuration, cohort table or model is wrong: nothing is started."""


class NoWorkers(CohortexError):
    """Slurm gives no workers for the blocks of a volume: no image's fault, the job ends and is tried again."""


class WorkersDied(MemoryError):
    """The workers of a cluster died again and again on the blocks of a volume, nearly always for want of memory."""


class BadInput(CohortexError):
    """An image cannot be used: it is quarantined with a code, the others go on.

    Parameters
    ----------
    code : str
        Short, stable, lower case with dashes, such as ``truncated`` or ``missing-slices``.
    sentence : str
        What was found and what to do, in one sentence.
    """

    def __init__(self, code: str, sentence: str):
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # A worker on another node sends it home.
        return type(self), (self.code, self.sentence)


class Skip(CohortexError):
    """An item is not for this stage by policy (no pair, no model for its body part): it is passed on.

    Parameters are those of `BadInput`.
    """

    def __init__(self, code: str, sentence: str):
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # A worker on another node sends it home.
        return type(self), (self.code, self.sentence)

"""The one exception for a user's mistake: one sentence that says what, where and what to do."""


class UserError(Exception):
    """Ends the command with its sentence and exit code 2; see `experiments.launch`."""

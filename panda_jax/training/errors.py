"""The one error of a run that went wrong by itself; bad input is an `InputError`, as everywhere."""


class TrainingStopped(RuntimeError):
  """The run cannot go on (the loss is no longer a number); the last good checkpoint is kept."""

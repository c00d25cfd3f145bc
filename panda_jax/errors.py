"""The one error type that reaches a user."""


class InputError(ValueError):
  """Bad input, said in one clear sentence: what is wrong, where, and how to mend it.

  The command line prints the sentence alone and exits with status 2.
  """

from panda_jax.training.progress import Progress


def test_away_from_a_terminal_there_is_one_plain_line_per_report(capsys):
  progress = Progress(0, 100)
  progress.advance(1)
  progress.report(10, {"loss": 0.51234, "validation_loss": 0.25, "steps_per_second": 0.5})
  progress.close()
  [line] = capsys.readouterr().err.splitlines()
  assert line == "step 10/100  loss 0.5123  validation loss 0.2500  steps/s 0.50  about 3 min 00 s left"


def test_only_a_wait_that_matters_is_shown(capsys):
  """Waiting for data from one twentieth of the time on; the share of the chip's peak where it is known."""
  progress = Progress(0, 10)
  progress.report(1, {"loss": 0.5, "data_wait": 0.01, "mfu": 0.4321})
  progress.report(2, {"loss": 0.5, "data_wait": 0.31})
  assert capsys.readouterr().err.splitlines() == ["step 1/10  loss 0.5000  MFU 43.2%",
                                                  "step 2/10  loss 0.5000  waiting for data 31%"]

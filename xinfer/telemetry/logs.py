"""How lines of logs look, of whichever process."""

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

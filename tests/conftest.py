import signal

import hypothesis

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that. Tests of ctrl-C
# must not depend on how the test run itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)

# An example may take as long as a busy machine takes.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

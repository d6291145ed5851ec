import signal

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that. Tests of ctrl-C
# must not depend on how the test run itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)

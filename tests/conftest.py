"""One thread for every process of the tests: their tensors are tiny, and threads that wait for each other cost more than they do."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["LUTHIER_RUNS"] = os.devnull  # a test that forgets to say where its runs go must fail

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts its background jobs; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # so does nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

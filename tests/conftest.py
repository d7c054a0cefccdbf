"""One thread for every process of the tests: their tensors are tiny, and threads that wait for each other cost more than they do."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ["LUTHIER_RUNS"] = os.devnull  # a test that forgets to say where its runs go must fail

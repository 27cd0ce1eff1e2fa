import signal
import time

from tests.training.conftest import Started, metrics_of


def test_c(vq_config, tmp_path):
    for i in range(2):
        t = time.time()
        p = Started("train-vq", vq_config, "--output_dir", tmp_path / f"{i}", log=tmp_path / "log")
        print(p.wait())
        print(time.time() - t, metrics_of(tmp_path / f"{i}")[-1])
        print(p.output)


def test_d(vq_config, tmp_path):
    t = time.time()
    p = Started("train-vq", vq_config, "--num_updates", 1000, log=tmp_path / "log")
    p.wait_for(lambda: (tmp_path / "out/metrics.jsonl").exists())
    p.send(signal.SIGINT)
    print(p.wait())
    print(time.time() - t, metrics_of(tmp_path / "out")[-1])
    print(p.output)

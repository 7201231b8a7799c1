"""Results of a check that nobody ran."""

from __future__ import annotations

from serve_app.offline.bench.gpu.asking import Prefill, Stream
from serve_app.offline.bench.gpu.engine_log import EngineFacts
from serve_app.offline.bench.gpu.rates import Rates
from serve_app.offline.bench.gpu.results import Gpu, ReplicaRates, Results, Said, Step
from serve_app.offline.bench.machine import Machine

MACHINE = Machine(
    at="2026-11-29 18:00 UTC",
    cpu="some CPU",
    cores=16,
    memory_gib=128.0,
    kernel="6.1",
    python="3.12.1",
    packages={"vllm": "0.29.0"},
    commit="abc",
)
H200 = Gpu("NVIDIA H200", 143771.0, "580.95")
RATES = Rates(
    device="NVIDIA H200",
    memory_gib=139.8,
    copy_gb_s=4000.0,
    read_gb_s=4320.0,
    bf16_tflops=692.3,
    fp8_tflops=1300.0,
    launch_us=2.0,
)


def make_stream(server: str, batch: int, tokens_per_s: float, tier: str = "fast") -> Stream:
    """A batch of streams whose times follow from its rate."""
    return Stream(
        server=server,
        tier=tier,
        batch=batch,
        prompt_tokens=64,
        output_tokens=64,
        requests=10,
        tokens_per_s=tokens_per_s,
        ttft_p50_ms=20.0,
        ttft_p99_ms=30.0,
        step_p50_ms=1000 * batch / tokens_per_s,
        total_p99_ms=900.0,
        elsewhere_ratio=0.2 if batch == 1 else 0.05,
    )


def make_results(gpu: Gpu | None = H200) -> Results:
    """A whole run of one tier."""
    return Results(
        machine=MACHINE,
        gpu=gpu,
        config="configs/gpu-check.yaml",
        doctor=[Said("ok", "GPUs", "1 x H200"), Said("warning", "disk", "slow")],
        rates=RATES,
        starts_s={"bare fast": 61.0},
        engines={"fast": EngineFacts(14.25, 3.5, 149792.0, 8192.0, 18.29, 11.0, 0.41, 38.9, 61.2)},
        streams=[
            make_stream("bare", 1, 160.0),
            make_stream("bare", 8, 1200.0),
            make_stream("service", 1, 152.0),
        ],
        prefills=[Prefill("bare", "fast", 1024, 30.0)],
        card_used_gib=27.0,
        replicas=[ReplicaRates("fast", 512, 64, 30000.0, 4000.0)],
        steps=[Step("kernels", 8.0, "done"), Step("bare", 90.0, "failed: it ended")],
    )

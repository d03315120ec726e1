#!/usr/bin/env python3
"""What a model expects of training on many GPUs: the tables of docs/multi-gpu.md. Nothing here is measured.

    scripts/scaling_model.py                        # the tables
    scripts/scaling_model.py --images-per-second 1500 --batch 128
"""

import argparse
import math

GPUS_PER_NODE = 8
# Usable rates in bytes per second: what the links are sold as, times what collectives commonly reach of it.
NVLINK = 450e9 * 0.8  # each direction of a GPU, fourth generation
NETWORKS = [
    ("8 × 400 Gbit/s a machine", 8 * 400e9 / 8 * 0.9),
    ("1 × 100 Gbit/s a machine", 100e9 / 8 * 0.9),
    ("1 × 25 Gbit/s a machine", 25e9 / 8 * 0.9),
]
HOP_S = 5e-6  # one step of a tree between two machines
LAUNCH_S = 20e-6  # one collective
BACKWARD_SHARE = 0.5  # of a step that backward takes, beside which sums run

# ViT-S/16 (21.67 M) and the head of 65536 prototypes (22.29 M); the prototypes' lengths are frozen.
PARAMETERS = 21_665_664 + (384 * 2048 + 2048) + (2048 * 2048 + 2048) + (2048 * 256 + 256) + 65536 * 256
BUCKET_BYTES = 25 * 2**20


def exposed_s(gpus, network, bytes_each, step_s):
    """Time that a step waits for sums."""
    gradient_bytes = PARAMETERS * bytes_each
    local, nodes = min(gpus, GPUS_PER_NODE), math.ceil(gpus / GPUS_PER_NODE)
    # A ring sends everything nearly twice: within the machine over every GPU's links, then between machines.
    transfer = 2 * (local - 1) / local * gradient_bytes / NVLINK
    transfer += 2 * (nodes - 1) / nodes * gradient_bytes / network
    buckets = math.ceil(PARAMETERS * 4 / BUCKET_BYTES)
    latency = LAUNCH_S + 2 * math.ceil(math.log2(gpus)) * HOP_S
    # The last bucket is whole when backward has ended, as are center and losses.
    last = transfer / buckets + 3 * latency
    return max(0.0, (transfer + buckets * latency) * (buckets - 1) / buckets - BACKWARD_SHARE * step_s) + last


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images-per-second", type=float, default=3500, help="of one GPU on its own")
    parser.add_argument("--batch", type=int, default=64, help="images a step and GPU")
    options = parser.parse_args()
    step_s = options.batch / options.images_per_second
    print(f"ViT-S/16, {PARAMETERS / 1e6:.1f} M parameters that are trained; {options.images_per_second:.0f} images/s and GPU, "
          f"{options.batch} images a step: {step_s * 1e3:.1f} ms\n")
    counts = [8, 16, 32, 64, 128, 256]
    print("| network | sums in | " + " | ".join(f"{n} GPUs" for n in counts) + " |")
    print("|---|---|" + "---|" * len(counts))
    for name, network in NETWORKS:
        for kind, bytes_each in (("fp32", 4), ("bf16", 2)):
            cells = []
            for gpus in counts:
                efficiency = step_s / (step_s + exposed_s(gpus, network, bytes_each, step_s))
                cells.append(f"{100 * efficiency:.0f}%")
            print(f"| {name} | {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

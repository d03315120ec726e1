#!/usr/bin/env python3
"""Loader, inference and training step beside PyTorch, torchvision and Pillow, in alternating rounds on the same machine.

Needs PyTorch, torchvision and Pillow (Debian: python3-torch python3-torchvision python3-pil) and a built ./dino_cuda. One thread
and CPU time, so that a busy machine disturbs little. Prints a table, or JSON with --json. OpenBLAS takes slow kernels on processors that it
does not know: OPENBLAS_CORETYPE=SkylakeX gives it those for AVX-512.

    /usr/bin/python3 scripts/compare_pytorch.py --rounds 3
    /usr/bin/python3 scripts/compare_pytorch.py --only loader
"""
import argparse
import importlib.util
import io
import json
import math
import pathlib
import random
import statistics
import subprocess
import sys
import time

import numpy
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURES = 16


def our_rows(words):
    command = [str(ROOT / "dino_cuda"), "bench", *words, "--threads", "1", "--cpu-time", "--repetitions", "5", "--seconds", "3", "--json", "-"]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    return {f"{r['operation']} {r['pass']} {r['type']}": r["images_per_s"] for r in report["results"]}


def rate(work, images):
    """Images per second of CPU time; the first call only warms up."""
    work()
    times = []
    while len(times) < 3:
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return images / statistics.median(times)


def jpeg_files():
    """As in benchmarks/loader_benchmark.cpp: 500 x 375 pixels, smooth with some noise, quality 90."""
    y, x, c = numpy.mgrid[0:375, 0:500, 0:3]
    files = []
    for number in range(PICTURES):
        noise = numpy.random.default_rng(number).integers(0, 24, (375, 500, 3))
        pixels = (120 + 90 * numpy.sin(0.02 * x * (c + 1) + number) * numpy.cos(0.03 * y) + noise).astype(numpy.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


class Blur:
    def __init__(self, probability):
        self.probability = probability

    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0))) if random.random() < self.probability else image


class Solarize:
    def __call__(self, image):
        return ImageOps.solarize(image) if random.random() < 0.2 else image


def augmentation(size, scale, blur, solarize=False):
    steps = [
        transforms.RandomResizedCrop(size, scale=scale, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        Blur(blur),
    ]
    if solarize:
        steps.append(Solarize())
    return transforms.Compose(steps + [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])


def loader_rates():
    files = jpeg_files()
    crops = [augmentation(224, (0.4, 1.0), 1.0), augmentation(224, (0.4, 1.0), 0.1, True)] + 8 * [augmentation(96, (0.05, 0.4), 0.5)]

    def decode():
        return [Image.open(io.BytesIO(file)).convert("RGB") for file in files]

    def decode_and_crop():
        for image in decode():
            for crop in crops:
                crop(image)

    return {"loader decode uint8": rate(decode, PICTURES), "loader decode and crops uint8": rate(decode_and_crop, PICTURES)}


def pytorch_step():
    spec = importlib.util.spec_from_file_location("pytorch_step", ROOT / "scripts" / "pytorch_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inference_rates(precisions):
    vit = pytorch_step().Vit(384, 12, 6, 16, 224, 0.0).eval()
    rates = {}
    for batch in (1, 32):
        images = torch.randn(batch, 3, 224, 224)
        for precision in precisions:
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                rates[f"inference batch {batch} {precision}"] = rate(lambda: vit(images), batch)
    return rates


def step_rate(command, precision, batch):
    words = ["--arch", "vit_small", "--batch", str(batch), "--precision", precision, "--threads", "1", "--steps", "1", "--warmup", "1", "--json"]
    report = json.loads(subprocess.run([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout)
    return 1 / report["cpu_seconds_per_image"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["loader", "inference", "step"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32"], help="bf16 takes PyTorch minutes on a CPU without AMX")
    parser.add_argument("--step_batch", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    parts = args.only or ["loader", "inference", "step"]
    torch.set_num_threads(1)
    random.seed(0)

    ours, theirs = {}, {}

    def note(into, rates):
        for name, value in rates.items():
            if not math.isfinite(value):
                raise SystemExit(f"{name}: the rate is not a number")
            into.setdefault(name, []).append(value)

    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        if "loader" in parts:
            note(ours, our_rows(["loader"]))
            note(theirs, loader_rates())
        if "inference" in parts:
            note(ours, {name: value for name, value in our_rows(["inference"]).items() if name.split()[-1] in args.precisions})
            note(theirs, inference_rates(args.precisions))
        if "step" in parts:
            for precision in args.precisions:
                name = f"step ViT-S/16 {precision}"
                note(ours, {name: step_rate([str(ROOT / "dino_cuda"), "bench", "step"], precision, args.step_batch)})
                note(theirs, {name: step_rate([sys.executable, str(ROOT / "scripts" / "pytorch_step.py")], precision, args.step_batch)})

    rows = [{"what": name,
             "dino_cuda": statistics.median(ours[name]), "other": statistics.median(theirs[name]),
             "ratio": statistics.median(a / b for a, b in zip(ours[name], theirs[name])),
             "ratios": [round(a / b, 3) for a, b in zip(ours[name], theirs[name])]} for name in ours if name in theirs]
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "Pillow": PIL.__version__}
    if args.json:
        print(json.dumps({"versions": versions, "rounds": args.rounds, "unit": "images per second of CPU time, one thread", "rows": rows}))
        return
    print("images per second of CPU time, one thread; " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    for row in rows:
        print(f"{row['what']:34} {row['dino_cuda']:10.4g} {row['other']:10.4g}   x {row['ratio']:.2f}   of rounds: {row['ratios']}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The whole DINO training step in plain PyTorch, on random crops: the yardstick for `dino_cuda bench step`.

Needs PyTorch (Debian: python3-torch). Prints one JSON object. Options have the names of `dino_cuda bench step`. On a GPU:

    python3 scripts/pytorch_step.py --device cuda --batch 64 --precision amp
    python3 scripts/pytorch_step.py --device cuda --batch 64 --precision bf16 --attention sdpa --compile

The first is the official code's way: eager, fp16 autocast with a scaled loss. The second is PyTorch at its best: fused attention, compiled
networks and loss, and an optimizer step in which the host waits for nothing.
"""
import argparse
import contextlib
import copy
import functools
import json
import math
import platform
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

ARCHS = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}


def drop_path(x, rate, training):
    if rate == 0 or not training:
        return x
    return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(1 - rate).div_(1 - rate)


class Block(nn.Module):
    def __init__(self, width, heads, drop_path_rate, sdpa):
        super().__init__()
        self.heads = heads
        self.sdpa = sdpa
        self.drop_path_rate = drop_path_rate
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        images, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(images, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(images, tokens, width))
        x = x + drop_path(y, self.drop_path_rate, self.training)
        return x + drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))), self.drop_path_rate, self.training)


class Vit(nn.Module):
    def __init__(self, width, depth, heads, patch, size, drop_path_rate, sdpa):
        super().__init__()
        self.patch, self.grid = patch, size // patch
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 1 + self.grid**2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, rate, sdpa) for rate in torch.linspace(0, drop_path_rate, depth).tolist())
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x = self.embed(images)
        rows, columns = x.shape[2:]
        positions = self.positions
        if rows != self.grid:
            square = positions[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
            square = F.interpolate(square, scale_factor=(rows + 0.1) / self.grid, mode="bicubic")
            positions = torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).flatten(1, 2)], 1)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class Head(nn.Module):
    def __init__(self, width, prototypes):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256))
        self.last = nn.utils.weight_norm(nn.Linear(256, prototypes, bias=False))
        self.last.weight_g.data.fill_(1)
        self.last.weight_g.requires_grad = False

    def forward(self, x):
        return self.last(F.normalize(self.mlp(x), dim=-1))


def machine_name():
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(": ", 1)[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=ARCHS, default="vit_small")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--patch_size", "--patch-size", type=int, default=16)
    parser.add_argument("--global_crops_size", "--global-crops-size", type=int, default=224)
    parser.add_argument("--local_crops_size", "--local-crops-size", type=int, default=96)
    parser.add_argument("--local_crops_number", "--local-crops-number", type=int, default=8)
    parser.add_argument("--out_dim", "--out-dim", type=int, default=65536)
    parser.add_argument("--drop_path_rate", "--drop-path-rate", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["fp32", "bf16", "amp"], default="fp32", help="amp: fp16 with a scaled loss, on a GPU")
    parser.add_argument("--attention", choices=["plain", "sdpa"], default="plain")
    parser.add_argument("--compile", action="store_true", help="torch.compile, foreach clipping and teacher, fused AdamW")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the output is JSON with or without it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = device == "cuda"
    if args.precision == "amp" and not on_gpu:
        parser.error("--precision amp is for a GPU; try bf16")
    if args.attention == "sdpa" and not hasattr(F, "scaled_dot_product_attention"):
        parser.error("this PyTorch has no scaled_dot_product_attention: " + torch.__version__)

    width, depth, heads = ARCHS[args.arch]

    def networks(drop_path_rate):
        vit = Vit(width, args.depth or depth, heads, args.patch_size, args.global_crops_size, drop_path_rate, args.attention == "sdpa")
        return nn.ModuleList([vit, Head(width, args.out_dim)]).to(device)

    student = networks(args.drop_path_rate)
    with torch.no_grad():
        student[1].last(torch.zeros(1, 256, device=device))  # weight_norm leaves a computed tensor behind, which a copy cannot take along
        teacher = networks(0)
        teacher.load_state_dict(copy.deepcopy(student.state_dict()))
    for p in teacher.parameters():
        p.requires_grad = False
    trained = [p for p in student.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.04}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-5, **({"fused": True} if args.compile and on_gpu else {}))
    center = torch.zeros(1, args.out_dim, device=device)
    crops = [torch.randn(args.batch, 3, args.global_crops_size, args.global_crops_size, device=device) for _ in range(2)]
    crops += [torch.randn(args.batch, 3, args.local_crops_size, args.local_crops_size, device=device) for _ in range(args.local_crops_number)]
    make_scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # where it is depends on the version
    scaler = make_scaler() if args.precision == "amp" else None
    half = torch.float16 if args.precision == "amp" else torch.bfloat16
    compiled = functools.partial(torch.compile, dynamic=False) if args.compile else lambda function: function

    def autocast():
        return torch.autocast(device, dtype=half, enabled=args.precision != "fp32")

    def loss_of(targets, logits, center):
        probabilities = ((targets.float() - center) / 0.04).softmax(-1).chunk(2)
        log_student = [(x.float() / 0.1).log_softmax(-1) for x in logits.chunk(len(crops))]
        pairs = [-(t * s).sum(-1).mean() for i, t in enumerate(probabilities) for v, s in enumerate(log_student) if v != i]
        return sum(pairs) / len(pairs), 0.9 * center + 0.1 * targets.float().mean(0, keepdim=True)

    # A function for each size of crops is compiled for that size.
    student_vit, teacher_vit = compiled(student[0]), compiled(teacher[0])
    student_head, teacher_head = compiled(student[1]), compiled(teacher[1])
    compiled_loss = compiled(loss_of)

    def clip():
        """As the official code, tensor by tensor; or for all at once, without waiting for the norms."""
        if not args.compile:
            for p in trained:
                factor = 3.0 / (p.grad.norm() + 1e-6)
                if factor < 1:
                    p.grad.mul_(factor)
            return
        gradients = [p.grad for p in trained]
        factors = [(3.0 / (norm + 1e-6)).clamp(max=1) for norm in torch._foreach_norm(gradients)]
        torch._foreach_mul_(gradients, factors)

    def follow():
        with torch.no_grad():
            if args.compile:
                torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 0.004)
                return
            for s, t in zip(student.parameters(), teacher.parameters()):
                t.mul_(0.996).add_(s, alpha=0.004)

    def step():
        nonlocal center
        with autocast():
            with torch.no_grad():
                targets = teacher_head(teacher_vit(torch.cat(crops[:2])))
            features = [student_vit(torch.cat(crops[:2]))]
            if args.local_crops_number:
                features.append(student_vit(torch.cat(crops[2:])))
            logits = student_head(torch.cat(features))
        loss, center = compiled_loss(targets, logits, center)
        optimizer.zero_grad(set_to_none=True)
        if scaler is None:
            loss.backward()
            clip()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            clip()
            scaler.step(optimizer)
            scaler.update()
        follow()
        return loss.item()  # waits for the step

    for _ in range(args.warmup):
        step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times, cpu_times = [], []
    for _ in range(args.steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = step()
        times.append(time.perf_counter() - start)
        cpu_times.append(time.process_time() - cpu_start)
    if not math.isfinite(loss):
        raise SystemExit("the loss is not finite")
    median = statistics.median(times)
    print(json.dumps({
        "implementation": "pytorch " + torch.__version__, "version": torch.__version__, "device": device, "arch": args.arch, "patch_size": args.patch_size, "batch": args.batch,
        "global_crops_size": args.global_crops_size, "local_crops_size": args.local_crops_size, "local_crops_number": args.local_crops_number, "out_dim": args.out_dim,
        "precision": args.precision, "threads": args.threads, "machine": torch.cuda.get_device_name() if on_gpu else machine_name(), "attention": args.attention, "compiled": args.compile,
        "steps": args.steps, "step_ms": round(1000 * median, 1), "images_per_second": args.batch / median,
        "cpu_seconds_per_image": statistics.median(cpu_times) / args.batch,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "loss": loss}))


if __name__ == "__main__":
    main()

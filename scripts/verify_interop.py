#!/usr/bin/env python3
"""Loads what `dino_cuda convert` writes into PyTorch, timm, transformers and ONNX Runtime and compares features; and has
`dino_cuda convert` read what these write.

    ./scripts/build.sh
    python3 -m venv venv && venv/bin/pip install torch timm transformers onnx onnxruntime safetensors numpy
    venv/bin/python scripts/verify_interop.py [--weights FILE]

Libraries that are not installed are named and left out; at least PyTorch must be there. The reference is a plain PyTorch
transformer below, with the official position embedding. Differences are ‖a − b‖ / ‖b‖. Ends with status 1 when one is
above the tolerance.
"""
import argparse
import importlib
import math
import pathlib
import platform
import subprocess
import sys
import tempfile

import torch
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOLERANCE = {"fp32": 2e-5, "fp16": 2e-3, "bf16": 2e-2}
TORCH_TYPE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
failures = []


def optional(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"not installed, left out: {name} ({error})")
        return None


def positions(weights, rows, columns):
    """Official interpolate_pos_encoding."""
    embedding = weights["pos_embed"]
    side = math.isqrt(embedding.shape[1] - 1)
    if rows == side and columns == side:
        return embedding
    grid = embedding[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    assert grid.shape[-2:] == (rows, columns)
    return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def reference(weights, images, heads):
    """CLS and patch tokens after the final norm, and the last block's attention."""
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], eps=1e-6)

    def linear(x, name):
        return F.linear(x, weights[name + ".weight"], weights.get(name + ".bias"))

    kernel = weights["patch_embed.proj.weight"]
    x = F.conv2d(images, kernel, weights["patch_embed.proj.bias"], stride=kernel.shape[-1])
    rows, columns = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], dim=1) + positions(weights, rows, columns)
    attention, i = None, 0
    while f"blocks.{i}.norm1.weight" in weights:
        name = f"blocks.{i}."
        b, n, c = x.shape
        q, k, v = linear(norm(x, name + "norm1"), name + "attn.qkv").reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (c // heads) ** -0.5).softmax(dim=-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(b, n, c), name + "attn.proj")
        x = x + linear(F.gelu(linear(norm(x, name + "norm2"), name + "mlp.fc1")), name + "mlp.fc2")
        i += 1
    x = norm(x, "norm")
    return {"cls": x[:, 0], "patch tokens": x[:, 1:], "attention": attention}


def check(what, dtype, got, expected):
    texts = []
    for name, value in got.items():
        value, wanted = torch.as_tensor(value).float(), expected[name]
        same_shape = value.shape == wanted.shape
        difference = ((value - wanted).norm() / wanted.norm()).item() if same_shape else math.inf
        texts.append(f"{name} {difference:.1e}")
        if not difference <= TOLERANCE[dtype]:
            failures.append(f"{what} {dtype}: {name}")
    print(f"  {what:<46} {dtype}  " + ", ".join(texts), flush=True)


def check_tensors(what, got, expected):
    same = set(got) == set(expected) and all(torch.equal(got[name].float(), expected[name]) for name in expected)
    print(f"  {what:<46} {'every tensor bit for bit' if same else 'DIFFERS'}", flush=True)
    if not same:
        failures.append(what)


def random_weights(width, depth, patch, image):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=0.05):
        return torch.randn(*shape, generator=generator) * scale

    weights = {"cls_token": draw(1, 1, width), "pos_embed": draw(1, 1 + (image // patch) ** 2, width),
               "patch_embed.proj.weight": draw(width, 3, patch, patch), "patch_embed.proj.bias": draw(width)}
    for i in range(depth):
        for name, rows, columns in [("attn.qkv", 3 * width, width), ("attn.proj", width, width),
                                    ("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)]:
            weights[f"blocks.{i}.{name}.weight"] = draw(rows, columns)
            weights[f"blocks.{i}.{name}.bias"] = draw(rows)
    for name in [f"blocks.{i}.norm{n}" for i in range(depth) for n in (1, 2)] + ["norm"]:
        weights[name + ".weight"], weights[name + ".bias"] = 1 + draw(width), draw(width)
    return weights


class Interop:
    def __init__(self, program, folder, libraries):
        self.program, self.folder, self.libraries = program, folder, libraries

    def convert(self, source, out, form, *options):
        path = self.folder / out
        command = [self.program, "convert", source, path, "--to", form, "--force", *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(str(w) for w in command)}\n{done.stderr}")
        return path

    def run(self, source, heads_option):
        official = torch.load(self.convert(source, "official.pth", "official", "--dtype", "fp32", *heads_option), weights_only=True)
        width, patch = official["cls_token"].shape[-1], official["patch_embed.proj.weight"].shape[-1]
        image = math.isqrt(official["pos_embed"].shape[1] - 1) * patch
        depth = sum(name.endswith(".norm1.weight") for name in official)
        heads = int(heads_option[1]) if heads_option else width // 64
        print(f"{source}: width {width}, depth {depth}, heads {heads}, patch {patch}, image {image}")
        generator = torch.Generator().manual_seed(1)
        native = torch.randn(2, 3, image, image, generator=generator)
        other = torch.randn(1, 3, image + 2 * patch, image - patch, generator=generator)
        with torch.no_grad():
            expected = reference(official, native, heads)
            expected_other = reference(official, other, heads)
            for dtype in TOLERANCE:
                self.exports(source, heads_option, dtype, (width, depth, heads, patch, image), native, expected)
                self.onnx(source, heads_option, dtype, native, expected, other, expected_other)
            self.imports(official, (width, depth, heads, patch, image), heads_option)

    def exports(self, source, heads_option, dtype, sizes, native, expected):
        width, depth, heads, patch, image = sizes
        options = ["--dtype", dtype, *heads_option]
        weights = torch.load(self.convert(source, "o.pth", "official", *options), weights_only=True)
        if any(tensor.dtype != TORCH_TYPE[dtype] for tensor in weights.values()):
            failures.append(f"dtype of official .pth {dtype}")
        check("official .pth, torch.load(weights_only=True)", dtype,
              reference({name: tensor.float() for name, tensor in weights.items()}, native, heads), expected)
        timm, transformers, safetensors = (self.libraries[n] for n in ("timm", "transformers", "safetensors"))
        if timm and safetensors:
            model = timm.models.vision_transformer.VisionTransformer(
                img_size=image, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0).eval()
            path = self.convert(source, "t.safetensors", "timm", *options)
            model.load_state_dict(importlib.import_module("safetensors.torch").load_file(path), strict=True)
            tokens = model.forward_features(native)
            check("timm .safetensors, VisionTransformer", dtype, {"cls": model(native), "patch tokens": tokens[:, 1:]}, expected)
        if transformers:
            path = self.convert(source, "hf", "hf", *options)
            model, report = transformers.ViTModel.from_pretrained(
                path, add_pooling_layer=False, output_loading_info=True, torch_dtype=torch.float32,
                attn_implementation="eager")
            if report["missing_keys"] or report["unexpected_keys"]:
                failures.append(f"hf {dtype}: {report}")
            out = model.eval()(native, output_attentions=True)
            check("hf folder, ViTModel.from_pretrained", dtype,
                  {"cls": out.last_hidden_state[:, 0], "patch tokens": out.last_hidden_state[:, 1:],
                   "attention": out.attentions[-1]}, expected)
            processor = transformers.AutoImageProcessor.from_pretrained(path)
            if (processor.size["height"], processor.size["width"]) != (image, image):
                failures.append("hf preprocessor size")

    def onnx(self, source, heads_option, dtype, native, expected, other, expected_other):
        onnx, runtime = self.libraries["onnx"], self.libraries["onnxruntime"]
        path = self.convert(source, "v.onnx", "onnx", "--dtype", dtype, *heads_option)
        if onnx:
            onnx.checker.check_model(str(path), full_check=True)
        if runtime:
            session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for what, images, wanted in [("", native, expected), (", another batch and size", other, expected_other)]:
                values = session.run(None, {"images": images.numpy()})
                check("onnx, ONNX Runtime" + what, dtype, dict(zip(("cls", "patch tokens", "attention"), values)), wanted)

    def imports(self, official, sizes, heads_option):
        """Files that others wrote, through convert and back."""
        width, depth, heads, patch, image = sizes

        def back(what, path, *options):
            out = self.convert(path, "back.pth", "official", *heads_option, *options)
            check_tensors(what, torch.load(out, weights_only=True), official)

        full = {"student": {"module.backbone." + name: tensor * 2 for name, tensor in official.items()},
                "teacher": {"backbone." + name: tensor for name, tensor in official.items()},
                "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 3,
                "args": argparse.Namespace(arch="vit_tiny", patch_size=patch)}
        for zipped in (True, False):
            form = "zip" if zipped else "legacy"
            for name, content in [("state dict", official), ("training checkpoint", full)]:
                path = self.folder / f"{form}.pth"
                torch.save(content, path, _use_new_zipfile_serialization=zipped)
                back(f"from torch.save, {form}, {name}", path)
        transformers = self.libraries["transformers"]
        if transformers:
            source = self.convert(self.folder / "official.pth", "hf", "hf", *heads_option)
            model = transformers.ViTModel.from_pretrained(source)  # with a pooler, which is left out again
            small = f"{max(1, sum(p.numel() for p in model.parameters()) * 4 // 3000)}KB"
            for safe in (True, False):
                for shards in ("10GB", small):
                    folder = tempfile.mkdtemp(dir=self.folder)
                    model.save_pretrained(folder, safe_serialization=safe, max_shard_size=shards)
                    files = len(list(pathlib.Path(folder).glob("*model*")))
                    if files:
                        back(f"from save_pretrained, {'safetensors' if safe else 'bin'}, files: {files}", folder)
            classifier = transformers.ViTForImageClassification(model.config)
            classifier.vit.load_state_dict(model.state_dict(), strict=False)
            folder = tempfile.mkdtemp(dir=self.folder)
            classifier.save_pretrained(folder)
            back("from save_pretrained, ViTForImageClassification", folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "dino_cuda", type=pathlib.Path)
    parser.add_argument("--weights", type=pathlib.Path, help="default: the golden backbone, and a random ViT-Ti/16")
    parser.add_argument("--heads", type=int, help="attention heads, where the weights do not say")
    arguments = parser.parse_args()
    libraries = {name: optional(name) for name in ("timm", "transformers", "safetensors", "onnx", "onnxruntime")}
    versions = {name: module.__version__ for name, module in libraries.items() if module}
    print("Python", platform.python_version(), "torch", torch.__version__, *(f"{n} {v}" for n, v in versions.items()))
    if libraries["transformers"]:
        libraries["transformers"].logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        interop = Interop(arguments.program.resolve(), pathlib.Path(folder), libraries)
        if arguments.weights:
            interop.run(arguments.weights, ["--heads", arguments.heads] if arguments.heads else [])
        else:
            interop.run(ROOT / "tests/golden/backbone.safetensors", [])
            tiny = pathlib.Path(folder) / "vit_tiny.pth"
            torch.save(random_weights(192, 12, 16, 224), tiny)
            interop.run(tiny, [])
    for failure in failures:
        print("FAILED:", failure)
    print("all agree" if not failures else f"{len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

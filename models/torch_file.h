#pragma once

#include "models/tensor_source.h"

namespace dino {

/// What torch.save writes: a zip of one pickle and one entry per storage, or, before PyTorch 1.6, pickles with the
/// storages behind them. Nothing in the file is executed (see pickle.h); only dictionaries of tensors are understood,
/// one level deep
/// (`teacher.backbone.cls_token`), beside plain values and the attributes of an argparse.Namespace, which become
/// metadata
/// (`epoch`, `args.arch`). Storages are read one at a time, when a tensor is; every offset is checked against them.
std::unique_ptr<TensorSource> open_torch_zip(const std::filesystem::path& path);
std::unique_ptr<TensorSource> open_torch_legacy(const std::filesystem::path& path);

}  // namespace dino

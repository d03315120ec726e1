#pragma once

#include "data/decode.h"
#include "data/image_source.h"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dino {

struct DatasetOptions {
  /// "train", "val" or "test"; open_dataset() says what each means for each kind of data set.
  std::string split = "train";
  DecodeOptions decode = {};
};

/// A rectangle in pixels of a full-size picture: left and top inside, right and bottom outside.
struct Box {
  int left = 0;
  int top = 0;
  int right = 0;
  int bottom = 0;
};

/// Pictures with classes, in a fixed order: sorted by class and path (folders), or as stored (lists, binary files).
class Dataset : public ImageSource {
 public:
  /// Name of each class, by label; empty where there are no classes. The same for every split of a data set.
  const std::vector<std::string>& class_names() const { return class_names_; }
  /// One line for the log, printable(): how many pictures and classes of what kind, and what was left out.
  const std::string& summary() const { return summary_; }
  /// Where the object of picture `index` is, where the data set says so (Tiny ImageNet).
  virtual std::optional<Box> box(std::int64_t index) const;

 protected:
  std::vector<std::string> class_names_;
  std::string summary_;
};

/// Opens what stands at `path`; what it is shows from its content:
/// - A folder with class folders, nested to any depth: the class is the name of the first level (pictures beside the
///   class folders are left out). A folder with pictures only: no classes.
/// - A folder with train, val or test inside: the split that is asked for; "val" takes test where there is no val.
///   Classes are numbered over all splits together. Without such folders everything is "train"; where all folders have
///   other names of splits (Train, validation), that is an error.
/// - Tiny ImageNet as published (train/WNID/images, val/val_annotations.txt), with boxes; its test split has no
/// classes.
/// - CIFAR-10 as binary batches (data_batch_*.bin, test_batch.bin; also one folder further down).
/// - IDX files of MNIST's naming (train-images-idx3-ubyte, t10k-…; plain or .gz).
/// - A text file: one picture a line, `path` or `path<tab>class`, relative to the text file; # begins a comment.
/// Classes
///   that are all numbers are the labels; else names, numbered in sorted order.
/// Hidden files, other extensions and folders already seen (links may form loops) are skipped. Throws Error that says
/// what was found and what to try, where there is no picture to give.
std::unique_ptr<Dataset> open_dataset(const std::filesystem::path& path, const DatasetOptions& options = {});

}  // namespace dino

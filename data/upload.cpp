#include "data/upload.h"

#include <span>

namespace dino {
namespace {

/// (views·B, S, S, 3)
Shape shape_of(const HostCrops& group, int images) {
  return {std::int64_t{group.views} * images, group.size_px, group.size_px, 3};
}

/// A table on the device; the tensor holds its memory.
template <typename Entry>
class DeviceTable {
 public:
  DeviceTable(Context& context, const std::vector<Entry>& entries)
      : bytes_(context.from_host(ConstArray(reinterpret_cast<const std::uint8_t*>(entries.data()),
                                            {static_cast<std::int64_t>(entries.size() * sizeof(Entry))}))),
        entries_(reinterpret_cast<const Entry*>(bytes_.data()), entries.size()) {}
  std::span<const Entry> entries() const { return entries_; }

 private:
  Tensor bytes_;
  std::span<const Entry> entries_;
};

}  // namespace

std::vector<CropGroup> upload_crops(Context& context, const Batch& batch) {
  std::vector<CropGroup> groups;
  if (batch.images.empty()) {
    for (std::size_t g = 0; g < batch.groups.size(); ++g) {
      const Shape shape = shape_of(batch.groups[g], batch.size());
      groups.push_back({context.from_host(batch.crops(g).reshaped(shape))});
    }
    return groups;
  }
  for (const HostCrops& group : batch.groups) {
    groups.push_back({context.empty(shape_of(group, batch.size()), DType::uint8)});
  }
  std::vector<CropPicture> pictures;
  std::vector<std::span<const std::byte>> parts;
  std::int64_t size_bytes = 0;
  for (const Image& image : batch.images) {
    pictures.push_back({size_bytes, image.height, image.width});
    parts.push_back(std::as_bytes(std::span(image.rgb)));
    size_bytes += static_cast<std::int64_t>(image.rgb.size());
  }
  const Tensor images = context.empty({size_bytes}, DType::uint8);
  context.stream().gather_from_host(images.data(), parts);
  const DeviceTable<CropPicture> device_pictures(context, pictures);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    AugmentCrops args{.images = images.const_array(),
                      .pictures = pictures,
                      .plans = batch.groups[g].plans,
                      .output = groups[g].pixels.array()};
    check_crop_tables(args);
    const DeviceTable<CropPlan> plans(context, batch.groups[g].plans);
    args.pictures = device_pictures.entries();
    args.plans = plans.entries();
    augment_crops(args, context.stream());
  }
  return groups;
}

}  // namespace dino

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// A value of a pickle, as data: a global is its name, a call is the callable and its arguments. Refers to others by
/// their place in the pool, so that cycles and deep nesting are harmless.
struct PickleValue {
  using Id = std::uint32_t;
  enum class Kind : std::uint8_t {
    none,
    boolean,
    integer,
    big_integer,
    real,
    text,
    bytes,
    tuple,
    list,
    dict,
    set,
    global,
    object,
    persistent
  };

  Kind kind = Kind::none;
  std::int64_t integer = 0;  // and boolean
  double real = 0;
  std::string text;       // text, bytes; `module name` of a global; little-endian bytes of a big integer
  std::vector<Id> items;  // of tuple, list, set; key, value, key, value … of dict and of objects that were filled like
                          // one; the identifier of persistent
  // Objects:
  Id callable = 0, arguments = 0;
  std::vector<Id> states;  // what BUILD handed over
};

/// Reads one pickle (protocols 2 to 5) without ever executing anything: no global is looked up, no object made. Memory
/// stays proportional to the bytes read and below a fixed bound.
class Pickle {
 public:
  using Id = PickleValue::Id;

  /// Throws Error with `where` when the bytes are not a pickle, use an operation that torch.save never writes, or are
  /// cut off.
  Pickle(std::span<const std::byte> bytes, std::string_view where);

  const PickleValue& root() const { return values_[root_]; }
  const PickleValue& operator[](Id id) const { return values_[id]; }
  /// Number of values in the pool, whose places are 0 … size() - 1.
  Id size() const { return static_cast<Id>(values_.size()); }
  /// Bytes up to and including the pickle's last operation.
  std::size_t size_bytes() const { return at_; }

  /// The value of a text key in a dict, or in an object that was filled like one; null when there is none.
  const PickleValue* find(const PickleValue& dict, std::string_view key) const;

 private:
  void run();
  void step(std::uint8_t operation);
  bool step_value(std::uint8_t operation);
  bool step_container(std::uint8_t operation);

  [[noreturn]] void damaged(std::string_view what) const;
  std::span<const std::byte> take(std::uint64_t size);
  std::uint64_t take_integer(int size_bytes);
  std::string take_line();
  std::string take_text(std::uint64_t size);

  Id add(PickleValue value);
  void push(Id id) { stack_.push_back(id); }
  void push(PickleValue value) { push(add(std::move(value))); }
  Id pop();
  Id top() const;
  std::vector<Id> pop_to_mark();
  PickleValue& container(Id id, bool pairs);
  void remember(std::uint64_t key);
  void recall(std::uint64_t key);
  void push_long(std::span<const std::byte> bytes);

  std::span<const std::byte> bytes_;
  std::string where_;
  std::size_t at_ = 0;
  Id root_ = 0;
  std::deque<PickleValue> values_;
  std::vector<Id> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Id> memo_;
};

}  // namespace dino

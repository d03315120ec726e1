#include "models/pickle.h"

#include "kernels/common/error.h"

#include <bit>
#include <cstring>
#include <limits>

namespace dino {
namespace {

using Kind = PickleValue::Kind;

// A checkpoint of a few hundred tensors has some ten thousand values; an attacker's has more.
constexpr std::size_t kMaxValues = std::size_t{1} << 20;
constexpr std::size_t kMaxGlobalBytes = 1024;
constexpr PickleValue::Id kNothing = std::numeric_limits<PickleValue::Id>::max();

PickleValue make(Kind kind) {
  PickleValue value;
  value.kind = kind;
  return value;
}

PickleValue make_integer(Kind kind, std::int64_t integer) {
  PickleValue value = make(kind);
  value.integer = integer;
  return value;
}

PickleValue make_text(Kind kind, std::string text) {
  PickleValue value = make(kind);
  value.text = std::move(text);
  return value;
}

PickleValue make_items(Kind kind, std::vector<PickleValue::Id> items) {
  PickleValue value = make(kind);
  value.items = std::move(items);
  return value;
}

PickleValue make_object(PickleValue::Id callable, PickleValue::Id arguments) {
  PickleValue value = make(Kind::object);
  value.callable = callable;
  value.arguments = arguments;
  return value;
}

}  // namespace

Pickle::Pickle(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) { run(); }

void Pickle::run() {
  for (;;) {
    const auto operation = static_cast<std::uint8_t>(take_integer(1));
    if (operation == '.') break;
    if (!step_value(operation) && !step_container(operation)) step(operation);
  }
  root_ = pop();
  if (!stack_.empty() || !marks_.empty()) damaged("values are left over at its end");
}

/// Operations that push a plain value.
bool Pickle::step_value(std::uint8_t operation) {
  switch (operation) {
    case 'N': push(make(Kind::none)); return true;
    case 0x88: push(make_integer(Kind::boolean, 1)); return true;
    case 0x89: push(make_integer(Kind::boolean, 0)); return true;
    case 'J': push(make_integer(Kind::integer, static_cast<std::int32_t>(take_integer(4)))); return true;
    case 'K': push(make_integer(Kind::integer, static_cast<std::int64_t>(take_integer(1)))); return true;
    case 'M': push(make_integer(Kind::integer, static_cast<std::int64_t>(take_integer(2)))); return true;
    case 0x8a: push_long(take(take_integer(1))); return true;
    case 0x8b: push_long(take(take_integer(4))); return true;
    case 'G': {
      std::uint64_t bits = 0;
      for (const std::byte b : take(8)) bits = (bits << 8) | std::to_integer<std::uint64_t>(b);
      PickleValue value = make(Kind::real);
      value.real = std::bit_cast<double>(bits);
      push(std::move(value));
      return true;
    }
    case 'U':
    case 0x8c: push(make_text(Kind::text, take_text(take_integer(1)))); return true;
    case 'T':
    case 'X': push(make_text(Kind::text, take_text(take_integer(4)))); return true;
    case 0x8d: push(make_text(Kind::text, take_text(take_integer(8)))); return true;
    case 'C': push(make_text(Kind::bytes, take_text(take_integer(1)))); return true;
    case 'B': push(make_text(Kind::bytes, take_text(take_integer(4)))); return true;
    case 0x8e:
    case 0x96: push(make_text(Kind::bytes, take_text(take_integer(8)))); return true;
    default: return false;
  }
}

/// Operations that make and fill containers.
bool Pickle::step_container(std::uint8_t operation) {
  switch (operation) {
    case ')': push(make(Kind::tuple)); return true;
    case ']': push(make(Kind::list)); return true;
    case '}': push(make(Kind::dict)); return true;
    case 0x8f: push(make(Kind::set)); return true;
    case 't': push(make_items(Kind::tuple, pop_to_mark())); return true;
    case 'l': push(make_items(Kind::list, pop_to_mark())); return true;
    case 0x91: push(make_items(Kind::set, pop_to_mark())); return true;
    case 'd': {
      std::vector<Id> items = pop_to_mark();
      if (items.size() % 2 != 0) damaged("a dictionary has a key without value");
      push(make_items(Kind::dict, std::move(items)));
      return true;
    }
    case 0x85:
    case 0x86:
    case 0x87: {
      std::vector<Id> items(static_cast<std::size_t>(operation - 0x84));
      for (std::size_t i = items.size(); i-- > 0;) items[i] = pop();
      push(make_items(Kind::tuple, std::move(items)));
      return true;
    }
    case 'a': {
      const Id item = pop();
      container(top(), false).items.push_back(item);
      return true;
    }
    case 0x90:
    case 'e': {
      const std::vector<Id> items = pop_to_mark();
      std::vector<Id>& all = container(top(), false).items;
      all.insert(all.end(), items.begin(), items.end());
      return true;
    }
    case 's': {
      const Id value = pop();
      const Id key = pop();
      std::vector<Id>& all = container(top(), true).items;
      all.push_back(key);
      all.push_back(value);
      return true;
    }
    case 'u': {
      const std::vector<Id> items = pop_to_mark();
      if (items.size() % 2 != 0) damaged("a dictionary has a key without value");
      std::vector<Id>& all = container(top(), true).items;
      all.insert(all.end(), items.begin(), items.end());
      return true;
    }
    default: return false;
  }
}

/// The rest: the stack, the memo, and what Python would execute, which here is only noted down.
void Pickle::step(std::uint8_t operation) {
  switch (operation) {
    case 0x80:
      if (const std::uint64_t protocol = take_integer(1); protocol < 2 || protocol > 5)
        damaged("its protocol is not 2 to 5");
      return;
    case 0x95: take_integer(8); return;  // a frame's length is of no use here
    case '(': marks_.push_back(stack_.size()); return;
    case '0': pop(); return;
    case '1': pop_to_mark(); return;
    case '2': push(top()); return;
    case 'q': remember(take_integer(1)); return;
    case 'r': remember(take_integer(4)); return;
    case 0x94: remember(memo_.size()); return;
    case 'h': recall(take_integer(1)); return;
    case 'j': recall(take_integer(4)); return;
    case 'c': {
      std::string module = take_line();
      const std::string name = take_line();
      push(make_text(Kind::global, module + " " + name));
      return;
    }
    case 0x93: {
      const Id name = pop();
      const Id module = pop();
      if (values_[name].kind != Kind::text || values_[module].kind != Kind::text) damaged("a global has no name");
      // Texts may be used again and again: what is copied must be small.
      if (values_[name].text.size() + values_[module].text.size() > kMaxGlobalBytes)
        damaged("the name of a global is too long");
      push(make_text(Kind::global, values_[module].text + " " + values_[name].text));
      return;
    }
    case 'R':
    case 0x81: {
      const Id arguments = pop();
      const Id callable = pop();
      push(make_object(callable, arguments));
      return;
    }
    case 0x92: {
      pop();  // keyword arguments
      const Id arguments = pop();
      const Id callable = pop();
      push(make_object(callable, arguments));
      return;
    }
    case 'b': {
      const Id state = pop();
      values_[top()].states.push_back(state);
      return;
    }
    case 'Q': {
      const Id id = pop();
      push(make_items(Kind::persistent, {id}));
      return;
    }
    default: damaged(fmt::format("it uses the operation {:#04x}, which checkpoints do not", operation));
  }
}

void Pickle::damaged(std::string_view what) const {
  fail(where_, "the pickle cannot be read at byte {}: {}", at_, what);
}

std::span<const std::byte> Pickle::take(std::uint64_t size) {
  if (size > bytes_.size() - at_) damaged("it ends early");
  const auto taken = bytes_.subspan(at_, static_cast<std::size_t>(size));
  at_ += static_cast<std::size_t>(size);
  return taken;
}

std::uint64_t Pickle::take_integer(int size_bytes) {
  std::uint64_t value = 0;
  int shift = 0;
  for (const std::byte b : take(static_cast<std::uint64_t>(size_bytes))) {
    value |= std::to_integer<std::uint64_t>(b) << shift;
    shift += 8;
  }
  return value;
}

std::string Pickle::take_line() {
  std::string line;
  for (;;) {
    const char c = static_cast<char>(take_integer(1));
    if (c == '\n') return line;
    line += c;
  }
}

std::string Pickle::take_text(std::uint64_t size) {
  const auto bytes = take(size);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Pickle::Id Pickle::add(PickleValue value) {
  if (values_.size() >= kMaxValues) damaged("it holds too many values for a checkpoint");
  values_.push_back(std::move(value));
  return static_cast<Id>(values_.size() - 1);
}

Pickle::Id Pickle::pop() {
  const Id id = top();
  stack_.pop_back();
  return id;
}

Pickle::Id Pickle::top() const {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) damaged("a value is missing");
  return stack_.back();
}

std::vector<Pickle::Id> Pickle::pop_to_mark() {
  if (marks_.empty()) damaged("a mark is missing");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Id> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

PickleValue& Pickle::container(Id id, bool pairs) {
  PickleValue& value = values_[id];
  const bool fits = value.kind == Kind::object ||
                    (pairs ? value.kind == Kind::dict : value.kind == Kind::list || value.kind == Kind::set);
  if (!fits) damaged("something that is no container is filled");
  return value;
}

void Pickle::remember(std::uint64_t key) {
  // Picklers number their memo from 0 without gaps.
  if (key > memo_.size() && key >= kMaxValues) damaged("its memo is too large");
  if (key >= memo_.size()) memo_.resize(static_cast<std::size_t>(key) + 1, kNothing);
  memo_[static_cast<std::size_t>(key)] = top();
}

void Pickle::recall(std::uint64_t key) {
  if (key >= memo_.size() || memo_[static_cast<std::size_t>(key)] == kNothing)
    damaged("it recalls a value that it never stored");
  push(memo_[static_cast<std::size_t>(key)]);
}

void Pickle::push_long(std::span<const std::byte> bytes) {
  if (bytes.size() > sizeof(std::int64_t)) {
    push(make_text(Kind::big_integer, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
    return;
  }
  // Two's complement, little-endian, of any length.
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  const bool negative = !bytes.empty() && (bytes.back() & std::byte{0x80}) != std::byte{0};
  if (negative && bytes.size() < sizeof value) value |= ~std::uint64_t{0} << (8 * bytes.size());
  push(make_integer(Kind::integer, static_cast<std::int64_t>(value)));
}

const PickleValue* Pickle::find(const PickleValue& dict, std::string_view key) const {
  if (dict.kind != Kind::dict && dict.kind != Kind::object) return nullptr;
  for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& candidate = values_[dict.items[i]];
    if (candidate.kind == Kind::text && candidate.text == key) return &values_[dict.items[i + 1]];
  }
  return nullptr;
}

}  // namespace dino

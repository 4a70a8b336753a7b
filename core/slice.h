// A borrowed run of bytes. Whoever keeps one longer than the arena or buffer it points into must
// copy it. Everything that parses or prints text takes and returns slices.
#pragma once

#include <string_view>

namespace core {

using Slice = std::string_view;

}  // namespace core

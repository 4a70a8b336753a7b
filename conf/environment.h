// Environment: values of environment variables in a configuration, each announced by a line of its
// own on the main level (`environment NAME [default];`). Used by the parser, which replaces
// ${NAME} in words it has already taken apart: a value never becomes syntax.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/result.h"
#include "core/slice.h"

namespace conf {

class Environment {
  public:
    // `arguments` of the directive. Errors: a variable that is neither set nor has a default, a
    // value that could be taken for more than text.
    core::Result<void> declare(const std::vector<std::string>& arguments);
    bool empty() const { return values_.empty(); }
    // Replaces ${NAME} of every announced variable; what is in a value is not looked at again.
    void fill_in(std::string& word) const;

    // Remembers the environment as it is now: processes give most of it up later, and a
    // configuration that is loaded again has the same values. Only the first call does something.
    static void remember();

  private:
    const std::string* find(core::Slice name) const;
    std::vector<std::pair<std::string, std::string>> values_;
};

}  // namespace conf

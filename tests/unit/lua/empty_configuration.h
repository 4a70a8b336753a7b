// A configuration with nothing in it, current while it lives: what Lua code needs to find one.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "server/config.h"

namespace lua {

inline std::unique_ptr<server::Configuration> empty_configuration() {
    std::string folder = testing::TempDir() + "resty-empty-" + std::to_string(getpid());
    std::filesystem::create_directories(folder + "/logs");
    std::ofstream(folder + "/c.conf") << "error_log stderr; events {} http {}";
    server::LoadOptions options;
    options.path = folder + "/c.conf";
    options.prefix = folder + "/";
    auto loaded = server::Configuration::load(options);
    EXPECT_TRUE(loaded) << loaded.error().what;
    std::filesystem::remove_all(folder);
    if (!loaded) return nullptr;
    (*loaded)->make_current();
    return std::move(*loaded);
}

}  // namespace lua

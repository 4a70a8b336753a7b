// The PROXY protocol header (versions 1 and 2) that a balancer may put before a connection's first
// byte (`listen … proxy_protocol`).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/slice.h"

namespace server {

struct ProxyHeader {
    std::string source, destination;       // addresses as text; empty when not told
    int source_port = 0, destination_port = 0;
    std::vector<std::pair<uint8_t, std::string>> tlvs;

    enum class Outcome : uint8_t { complete, needs_more, invalid };
    static constexpr size_t bytes_max = 4096;

    // Reads a header from the start of `bytes`; `used` is its length when complete.
    static Outcome parse(core::Slice bytes, ProxyHeader& to, size_t& used);
    // The value of a TLV, null data when absent.
    core::Slice tlv(uint8_t type) const;
};

}  // namespace server

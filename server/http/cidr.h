// Networks (address and mask), and the rule by which a client's address is taken from a header that
// trusted proxies have written. Used by access, geo and realip.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/slice.h"
#include "core/socket.h"

namespace server {

// An address as bytes: IPv4 (also when mapped into IPv6) or IPv6.
struct AddressBytes {
    uint8_t bytes[16];
    int size = 0;                 // 4, 16, or 0 for Unix and unknown addresses

    static AddressBytes of(const core::Address& address);
};

struct Cidr {
    uint8_t bytes[16] = {};
    int size = 0;                 // of the address: 4, 16; 0 for "unix:"
    int bits = 0;
    bool low_bits_dropped = false;   // as written it had bits behind the mask

    bool contains(const AddressBytes& address) const;
    // "192.0.2.0/24", "2001:db8::/32", "192.0.2.1", "unix:". False: malformed.
    static bool parse(core::Slice text, Cidr& to);
};

bool any_contains(const std::vector<Cidr>& networks, const core::Address& address);

// "192.0.2.1", "192.0.2.1:80", "[2001:db8::1]:80", "2001:db8::1".
bool parse_address(core::Slice text, core::Address& to);

// Walks a list of addresses ("a, b, c") from its end: as long as `address` is one of the trusted
// ones, the entry before takes its place; once only unless `recursive`. `values` are the fields in
// order. True when `address` was replaced.
bool forwarded_address(core::Address& address, const core::Slice* values, size_t count,
                       const std::vector<Cidr>& trusted, bool recursive);

}  // namespace server

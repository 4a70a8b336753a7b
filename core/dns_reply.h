// Reading DNS replies and the hosts file, for the resolver only.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/resolver.h"

namespace core {

constexpr int dns_type_a = 1, dns_type_ptr = 12, dns_type_aaaa = 28, dns_type_srv = 33;

struct DnsReply {
    ResolveStatus status = ResolveStatus::format_error;
    uint32_t ttl_s = 0;                    // the least of those used
    std::vector<Address> addresses;
    std::vector<Resolution::Service> services;
    std::string pointer;
};

// Reads the records of `type` out of a reply. A reply without any is host_not_found; one that is
// malformed, or names a host in bytes that no host name has, is format_error.
DnsReply parse_dns_reply(const uint8_t* bytes, int size, int type);

// Letters, digits, '-', '_' and '.', labels and length within RFC 1035's limits.
bool is_host_name(Slice name);

// The name under which DNS keeps an address's name: "4.3.2.1.in-addr.arpa".
std::string pointer_name(const Address& address);

// The hosts file, read again when it changed (looked at once a second at most).
class HostsFile {
  public:
    explicit HostsFile(std::string path) : path_(std::move(path)) {}
    const std::vector<Address>* find(const std::string& name);

  private:
    void refresh();
    void read_line(Slice line);

    static constexpr size_t file_bytes_max = 16 << 20;

    std::string path_;
    int64_t looked_ms_ = -1;
    int64_t changed_ns_ = -1;
    int64_t bytes_ = -1;
    std::unordered_map<std::string, std::vector<Address>> names_;
};

}  // namespace core

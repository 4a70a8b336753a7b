// geo: a variable whose value is chosen by an address: the longest network that contains it, or a
// table of IPv4 ranges. Built while the configuration is read; looking up allocates nothing.
#include <arpa/inet.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "server/http/cidr.h"
#include "server/http/connection.h"
#include "server/http/lookup_block.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Address;
using core::Error;
using core::Slice;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

// A binary trie over address bits; values are indexes, -1 for none.
class NetworkTrie {
  public:
    NetworkTrie() : nodes_(1) {}

    int* at(const Cidr& network, bool make) {
        int node = 0;
        for (int bit = 0; bit < network.bits; ++bit) {
            int& child = nodes_[size_t(node)].child[bit_of(network.bytes, bit)];
            if (child == 0) {
                if (!make) return nullptr;
                int made = int(nodes_.size());
                child = made;
                nodes_.emplace_back();
                node = made;
                continue;
            }
            node = child;
        }
        return &nodes_[size_t(node)].value;
    }

    int find(const AddressBytes& address) const {
        int node = 0, best = nodes_[0].value;
        for (int bit = 0; bit < address.size * 8; ++bit) {
            node = nodes_[size_t(node)].child[bit_of(address.bytes, bit)];
            if (node == 0) break;
            if (nodes_[size_t(node)].value >= 0) best = nodes_[size_t(node)].value;
        }
        return best;
    }

  private:
    struct Node {
        int child[2] = {0, 0};
        int value = -1;
    };
    static int bit_of(const uint8_t* bytes, int bit) { return bytes[bit / 8] >> (7 - bit % 8) & 1; }
    std::vector<Node> nodes_;
};

struct Range {
    uint32_t last;
    int value;
};

struct Geo {
    ComplexValue subject;              // empty: the client's address
    bool has_subject = false;
    bool ranges = false;
    bool has_entries = false;
    bool proxy_recursive = false;
    std::vector<Cidr> proxies;
    NetworkTrie v4, v6;
    std::map<uint32_t, Range> by_first;               // while reading ranges…
    std::vector<std::pair<uint32_t, Range>> sorted;   // …and when done
    std::vector<std::string> values;
    int default_value = -1;
};

struct GeoConf {
    std::vector<std::unique_ptr<Geo>> geos;
};

// ---- looking up ----

Address subject_address(Request& request, const Geo& geo) {
    Address address = request.connection.peer;
    if (geo.has_subject) {
        Address named;
        return Address::parse_ip(geo.subject.evaluate(request), named) ? named : Address();
    }
    if (geo.proxies.empty()) return address;
    constexpr size_t fields_max = 16;
    Slice fields[fields_max];
    size_t count = 0;
    for (const Header& header : request.headers) {
        if (header.removed || header.id != HeaderId::x_forwarded_for) continue;
        if (count < fields_max) fields[count++] = header.value;
    }
    forwarded_address(address, fields, count, geo.proxies, geo.proxy_recursive);
    return address;
}

int find_range(const Geo& geo, const AddressBytes& address) {
    if (address.size != 4) return -1;
    uint32_t number;
    std::memcpy(&number, address.bytes, 4);
    number = ntohl(number);
    auto behind = std::upper_bound(
        geo.sorted.begin(), geo.sorted.end(), number,
        [](uint32_t value, const auto& entry) { return value < entry.first; });
    if (behind == geo.sorted.begin()) return -1;
    const Range& range = std::prev(behind)->second;
    return number <= range.last ? range.value : -1;
}

Value get_geo(Request& request, Slice, uintptr_t data) {
    const Geo& geo = *reinterpret_cast<const Geo*>(data);
    AddressBytes address = AddressBytes::of(subject_address(request, geo));
    int found = -1;
    if (geo.ranges) {
        found = find_range(geo, address);
    } else if (address.size == 4) {
        found = geo.v4.find(address);
    } else if (address.size == 16) {
        found = geo.v6.find(address);
    }
    if (found < 0) found = geo.default_value;
    return found < 0 ? Slice("", 0) : Slice(geo.values[size_t(found)]);
}

// ---- reading ----

int value_index(Geo& geo, Slice text) {
    for (size_t i = 0; i < geo.values.size(); ++i) {
        if (geo.values[i] == text) return int(i);
    }
    geo.values.emplace_back(text);
    return int(geo.values.size()) - 1;
}

// Takes [first, last] out of what earlier entries cover.
void carve(Geo& geo, uint32_t first, uint32_t last) {
    auto at = geo.by_first.upper_bound(first);
    if (at != geo.by_first.begin()) --at;
    while (at != geo.by_first.end() && at->first <= last) {
        uint32_t from = at->first;
        Range range = at->second;
        ++at;
        if (range.last < first) continue;
        geo.by_first.erase(from);
        if (from < first) geo.by_first[from] = {first - 1, range.value};
        if (range.last > last) geo.by_first[last + 1] = range;
    }
}

Result<void> add_range(Geo& geo, Slice key, Slice value, const Line& entry) {
    bool remove = key == "delete";
    Slice network = remove ? value : key;
    size_t dash = network.find('-');
    Address first, last;
    bool valid = dash != Slice::npos && Address::parse_ip(network.substr(0, dash), first) &&
                 Address::parse_ip(network.substr(dash + 1), last) &&
                 first.family() == AF_INET && last.family() == AF_INET;
    if (!valid) return Error{"invalid range " + quoted(network)};
    uint32_t from = ntohl(first.v4.sin_addr.s_addr), to = ntohl(last.v4.sin_addr.s_addr);
    if (from > to) return Error{"invalid range " + quoted(network)};
    if (remove) {
        auto known = geo.by_first.find(from);
        if (known == geo.by_first.end() || known->second.last != to) {
            entry.binder.warn(entry.node.place, "no address range " + quoted(network) +
                                                    " to delete");
            return {};
        }
    } else {
        auto known = geo.by_first.find(from);
        if (known != geo.by_first.end() && known->second.last == to) {
            entry.binder.warn(entry.node.place,
                              "duplicate range " + quoted(network) + ", value: " + quoted(value) +
                                  ", old value: " +
                                  quoted(geo.values[size_t(known->second.value)]));
        }
    }
    carve(geo, from, to);
    if (!remove) geo.by_first[from] = {to, value_index(geo, value)};
    return {};
}

Result<Cidr> read_network(Slice text, const Line& entry) {
    Cidr network;
    if (text == "255.255.255.255") text = "255.255.255.255/32";
    if (!Cidr::parse(text, network) || network.size == 0) {
        return Error{"invalid network " + quoted(text)};
    }
    if (network.low_bits_dropped) {
        entry.binder.warn(entry.node.place, "low address bits of " + std::string(text) +
                                                " are meaningless");
    }
    return network;
}

Result<void> add_network(Geo& geo, Slice key, Slice value, const Line& entry) {
    bool remove = key == "delete";
    auto network = read_network(remove ? value : key, entry);
    if (!network) return network.take_error();
    NetworkTrie& trie = network->size == 4 ? geo.v4 : geo.v6;
    int* slot = trie.at(*network, !remove);
    if (remove) {
        if (!slot || *slot < 0) {
            entry.binder.warn(entry.node.place, "no network " + quoted(value) + " to delete");
        } else {
            *slot = -1;
        }
        return {};
    }
    if (*slot >= 0) {
        entry.binder.warn(entry.node.place,
                          "duplicate network " + quoted(key) + ", value: " + quoted(value) +
                              ", old value: " + quoted(geo.values[size_t(*slot)]));
    }
    *slot = value_index(geo, value);
    return {};
}

Result<void> add_entry(Geo& geo, const Line& entry) {
    const std::string& key = entry.node.name;
    if (entry.count() == 0 && key == "ranges") {
        if (geo.has_entries) return Error{"the \"ranges\" directive must be the first directive "
                                          "inside \"geo\" block"};
        geo.ranges = true;
        return {};
    }
    if (entry.count() == 0 && key == "proxy_recursive") {
        geo.proxy_recursive = true;
        return {};
    }
    if (entry.count() != 1) return Error{"invalid number of the geo parameters"};
    if (key == "proxy") {
        auto network = read_network(entry.arg(0), entry);
        if (!network) return network.take_error();
        geo.proxies.push_back(*network);
        return {};
    }
    geo.has_entries = true;
    if (key == "default") {
        if (geo.default_value >= 0) {
            entry.binder.warn(entry.node.place,
                              "duplicate network \"default\", value: " + quoted(entry.arg(0)) +
                                  ", old value: " + quoted(geo.values[size_t(geo.default_value)]));
        }
        geo.default_value = value_index(geo, entry.arg(0));
        return {};
    }
    return geo.ranges ? add_range(geo, key, entry.arg(0), entry)
                      : add_network(geo, key, entry.arg(0), entry);
}

Result<void> add_geo(GeoConf& conf, const Line& line) {
    auto geo = std::make_unique<Geo>();
    geo->has_subject = line.count() == 2;
    if (geo->has_subject && !line.arg(0).starts_with('$')) {
        return Error{"invalid variable name " + quoted(line.arg(0))};
    }
    auto name = read_lookup(line, geo->subject,
                            [&](const Line& entry) { return add_entry(*geo, entry); });
    if (!name) return name.take_error();
    geo->sorted.assign(geo->by_first.begin(), geo->by_first.end());
    geo->by_first.clear();
    auto defined = define_lookup(*name, get_geo, geo.get());
    if (!defined) return defined;
    conf.geos.push_back(std::move(geo));
    return {};
}

constexpr conf::Directive directives[] = {
    {"geo", conf::in_http, conf::takes_block(1, 2), conf::call<add_geo>},
};

const Module module_geo{
    .name = "http_geo",
    .conf = conf_of<GeoConf>,
    .directives = directives,
};
REGISTER_MODULE(module_geo);

}  // namespace

}  // namespace server

// map: a variable whose value is chosen by another text: exact words, host names with wildcards,
// regular expressions (with captures), a default. Evaluated when the variable is read (MapTable).
#include <memory>

#include "conf/binder.h"
#include "conf/values.h"
#include "server/config.h"
#include "server/http/lookup_block.h"
#include "server/http/map_table.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

struct MapConf {
    std::vector<std::unique_ptr<MapTable>> maps;
    conf::Setting<int64_t> hash_max_size{2048};      // our tables size themselves
    conf::Setting<int64_t> hash_bucket_size{64};
};

Value get_mapped(Request& request, Slice, uintptr_t data) {
    return reinterpret_cast<const MapTable*>(data)->evaluate(request);
}

Result<void> add_map(MapConf& conf, const Line& line) {
    auto map = std::make_unique<MapTable>();
    auto name = read_lookup(line, map->subject,
                            [&](const Line& entry) { return map->add(entry); });
    if (!name) return name.take_error();
    map->complete();
    map->block = &line.node;
    map->name = *name;
    auto defined = define_lookup(*name, get_mapped, map.get(),
                                 map->is_volatile ? Variable::volatile_ : 0);
    if (!defined) return defined;
    conf.maps.push_back(std::move(map));
    return {};
}

constexpr conf::Directive directives[] = {
    {"map", conf::in_http, conf::takes_block(2, 2), conf::call<add_map>},
    {"map_hash_max_size", conf::in_http, conf::takes(1), conf::field<&MapConf::hash_max_size>},
    {"map_hash_bucket_size", conf::in_http, conf::takes(1),
     conf::field<&MapConf::hash_bucket_size>},
};

const Module module_map{
    .name = "http_map",
    .conf = conf_of<MapConf>,
    .directives = directives,
};
REGISTER_MODULE(module_map);

}  // namespace

const std::vector<std::unique_ptr<MapTable>>* maps_of(Configuration& configuration) {
    if (!configuration.http_level()) return nullptr;
    void* conf = configuration.binder().own(*configuration.http_level(), module_map.index);
    return &static_cast<MapConf*>(conf)->maps;
}

}  // namespace server

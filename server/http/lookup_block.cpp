// Reading the blocks of map and its like. Called while the configuration is loaded.
#include "server/http/lookup_block.h"

#include "server/config.h"

namespace server {

conf::Result<std::string> read_lookup(const conf::Line& line, ComplexValue& subject,
                                      const conf::Binder::EntryReader& entry) {
    if (line.count() > 1) {
        auto compiled = ComplexValue::compile(line.arg(0), line);
        if (!compiled) return compiled.take_error();
        subject = std::move(*compiled);
    }
    auto name = variable_name(line.arg(line.count() - 1));
    if (!name) return name.take_error();
    auto read = line.binder.each_entry(line, entry);
    if (!read) return read.take_error();
    return std::move(*name);
}

conf::Result<void> define_lookup(const std::string& name, decltype(Variable::get) get,
                                 const void* table, uint8_t flags) {
    Variable definition{"", get, uint8_t(Variable::changeable | flags),
                        reinterpret_cast<uintptr_t>(table)};
    auto defined = Configuration::current().variables().define(name, definition);
    if (!defined) return defined.take_error();
    return {};
}

}  // namespace server

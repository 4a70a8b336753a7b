// Answers of the control socket as tables and lines.
#include <simdjson.h>

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "server/control/client.h"

namespace server {

namespace {

namespace dom = simdjson::dom;
using Row = std::vector<std::string>;

std::string text_of(dom::element value) {
    std::string_view text;
    if (!value.get(text)) return std::string(text);
    if (value.is_null()) return "-";
    return simdjson::minify(value);
}

// Columns as wide as their widest text; the last one as it is.
std::string table(const std::vector<Row>& rows) {
    std::vector<size_t> widths;
    for (const Row& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string text;
    for (const Row& row : rows) {
        for (size_t i = 0; i < row.size(); ++i) {
            text += row[i];
            if (i + 1 < row.size()) text.append(widths[i] - row[i].size() + 2, ' ');
        }
        text += '\n';
    }
    return text;
}

// An array of objects, the members that are named as columns.
std::string list(dom::array items, std::initializer_list<const char*> members) {
    std::vector<Row> rows{Row(members.begin(), members.end())};
    for (dom::element item : items) {
        Row row;
        for (const char* member : members) {
            dom::element value;
            row.push_back(item[member].get(value) ? "-" : text_of(value));
        }
        rows.push_back(std::move(row));
    }
    return rows.size() == 1 ? "none\n" : table(rows);
}

// An object, a member a line; members of objects within likewise.
void members_of(dom::object from, const std::string& indent, std::string& to) {
    for (auto [name, value] : from) {
        dom::object inner;
        to += indent + std::string(name) + ":";
        if (value.get(inner)) {
            to += " " + text_of(value) + "\n";
        } else {
            to += "\n";
            members_of(inner, indent + "  ", to);
        }
    }
}

std::string show_peers(dom::element root) {
    dom::array peers;
    if (root["peers"].get(peers)) return "";
    std::vector<Row> rows;
    for (dom::element peer : peers) {
        std::string address, server, flags;
        for (auto [name, value] : dom::object(peer)) {
            if (name == "address") address = text_of(value);
            else if (name == "server") server = text_of(value);
            else if (value.is_bool()) flags += bool(value) ? " " + std::string(name) : "";
            else flags += " " + std::string(name) + "=" + text_of(value);
        }
        if (server != address) flags += " server=" + server;
        rows.push_back({address, flags.empty() ? flags : flags.substr(1)});
    }
    return table(rows);
}

std::string show_status(dom::object root) {
    std::string text;
    for (auto [name, value] : root) {
        dom::array items;
        if (value.get(items)) {
            text += std::string(name) + ": " + text_of(value) + "\n";
            continue;
        }
        text += std::string(name) + ":";
        for (dom::element item : items) {
            dom::element id, pid;
            bool worker = !item["id"].get(id) && !item["pid"].get(pid);
            text += " " + (worker ? text_of(id) + "=" + text_of(pid) : text_of(item));
        }
        text += "\n";
    }
    return text;
}

}  // namespace

std::string show_reply(const std::string& path, const std::string& body) {
    dom::parser parser;
    dom::element root;
    dom::object object;
    dom::array items;
    if (parser.parse(body).get(root) || root.get(object)) return body + "\n";
    if (path == "/v1/status") return show_status(object);
    if (path.starts_with("/v1/upstreams/") && !root["peers"].get(items)) return show_peers(root);
    if (!root["upstreams"].get(items)) return list(items, {"name", "peers", "changed"});
    if (!root["certificates"].get(items)) {
        return list(items, {"name", "from", "not_after", "key", "subject"});
    }
    if (!root["maps"].get(items)) return list(items, {"name", "configured", "subject"});
    if (!root["entries"].get(items)) return list(items, {"key", "value", "from"});
    if (!root["handlers"].get(items)) return list(items, {"prefix", "folder", "from"});
    if (!root["changes"].get(items)) return list(items, {"resource", "key", "version"});
    std::string text;
    members_of(object, "", text);
    return text;
}

}  // namespace server

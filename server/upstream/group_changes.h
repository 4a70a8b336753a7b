// UpstreamGroup::Replacement: new servers of a group that wait to be put in place of the old ones.
// Made by UpstreamGroup::stage(); destroyed without commit() it leaves everything as it was.
#pragma once

#include <utility>
#include <vector>

#include "server/upstream/group.h"

namespace server {

// The memory is there: for the text, and in the zone for as many peers as if none were known.
class UpstreamGroup::Replacement {
  public:
    Replacement(UpstreamGroup& group, std::vector<PeerSpec> specs)
        : group_(group), specs_(std::move(specs)) {}
    Replacement(const Replacement&) = delete;
    Replacement& operator=(const Replacement&) = delete;
    ~Replacement();

    bool reserve();
    void commit();

  private:
    UpstreamGroup& group_;
    std::vector<PeerSpec> specs_;
    char* text_ = nullptr;
    size_t text_size_ = 0;
    PeerTable* reserve_ = nullptr;
};

}  // namespace server

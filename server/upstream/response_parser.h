// Reads an HTTP/1 response from an upstream, by llhttp (strict), whatever the reads look like.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/slice.h"

struct llhttp__internal_s;

namespace server {

class ResponseParser {
  public:
    // What is found, in order: fields, then the head, then body pieces, then the end. Called from
    // feed(). Slices are valid during the call.
    class Receiver {
      public:
        virtual void on_response_field(core::Slice name, core::Slice value) = 0;
        // False: the response is of no use (an unwanted 101); parsing stops.
        virtual bool on_response_head(int status, core::Slice reason) = 0;
        virtual void on_response_body(core::Slice bytes) = 0;

      protected:
        ~Receiver() = default;
    };
    enum class State : uint8_t { head, body, complete, bad };

    // `head_request`: the response has no body whatever its fields say. `head_bytes_max`: longer
    // heads are bad.
    ResponseParser(Receiver& receiver, bool head_request, size_t head_bytes_max);
    ~ResponseParser();

    State feed(core::Slice bytes);
    // The upstream has closed: complete, when the body was to end so.
    State finish();
    State state() const { return state_; }
    bool head_too_big() const { return head_too_big_; }
    bool keep_alive() const { return keep_alive_; }     // once complete

  private:
    friend struct ResponseCallbacks;

    Receiver& receiver_;
    std::unique_ptr<llhttp__internal_s> parser_;
    State state_ = State::head;
    bool head_request_;
    bool head_too_big_ = false;
    bool interim_ = false;
    bool keep_alive_ = false;
    size_t head_bytes_max_;
    size_t head_bytes_ = 0;
    int interim_count_ = 0;
    std::string name_, value_, reason_;
};

}  // namespace server

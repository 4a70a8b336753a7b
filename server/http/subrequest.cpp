// Subrequests: captured ones collect their response, postponed ones put it at their place in the
// response of the client's request.
#include "server/http/subrequest.h"

#include "server/http/exchange.h"

namespace server {

namespace {

// What both kinds share: the child's end, and starting it from the loop.
class ChildExchange : public Exchange {
  public:
    ChildExchange(SubrequestDone done, void* argument)
        : done_(done),
          argument_(argument),
          start_([](void* it) { static_cast<ChildExchange*>(it)->child->start(); }, this),
          end_([](void* it) { static_cast<ChildExchange*>(it)->ended(); }, this) {}
    // It is in the parent's arena: the parent ends.
    virtual ~ChildExchange() {
        if (child) child->exchange = nullptr;
    }
    static ChildExchange* of(Request& child) {
        return static_cast<ChildExchange*>(child.exchange);
    }

    Request* child = nullptr;
    bool awaited = false;                  // the parent's end waits for the child's

    // The child is being destroyed: nothing may come back to it.
    void forget() {
        start_.unlink();
        end_.unlink();
        child = nullptr;
    }
    void start() { core::Reactor::current().at_end(core::Reactor::work, start_); }

    virtual void drop_response() {}          // its pieces may point into the child's memory
    void send_interim(Request&, int) override {}
    void flush(Request&) override {}
    bool settle(Request&) override { return true; }
    void want_body(Request&, bool) override {}
    void request_done(Request&, bool) override {
        core::Reactor::current().at_end(core::Reactor::work, end_);
    }

  protected:
    virtual void ended();

    SubrequestDone done_;
    void* argument_;
    core::Deferred start_;
    core::Deferred end_;
};

class CaptureExchange final : public ChildExchange {
  public:
    using ChildExchange::ChildExchange;
    CapturedResponse response;

    void send_head(Request& request) override { response.status = request.response.status; }
    void send_body(Request& request, core::Chain&& body) override {
        // The subrequest's memory lives as long as its parent's, or until the capture is destroyed.
        request.body_bytes_sent += body.bytes();
        response.body.append(std::move(body));
    }
    int64_t pending_bytes() const override { return 0; }
    void drop_response() override { response.body.clear(); }

  protected:
    void ended() override {
        if (child->output == Request::Output::broken) response.truncated = true;
        if (response.status == 0) response.status = child->response.status;
        ChildExchange::ended();
    }
};

}  // namespace

// The order of a response's parts: a tree in which each request has a list of pieces and children.
// Pieces of the request whose turn it is go straight on; others wait in the list.
class OutputOrder {
  public:
    struct Entry {
        Request* request;
        Entry* parent = nullptr;
        bool finished = false;
        // What waits: pieces in order, each before an optional child.
        struct Item : core::ListNode {
            core::Chain piece;
            Entry* child = nullptr;
        };
        core::List<Item> items;
        Entry* next = nullptr;
    };

    static OutputOrder& of(Request& main) {
        if (!main.order) {
            main.order = main.arena.make<OutputOrder>(main);
        }
        return *main.order;
    }

    explicit OutputOrder(Request& main) : main_(main) { root_ = &entry(main, nullptr); }

    Entry& entry(Request& request, Entry* parent) {
        Entry* made = main_.arena.make<Entry>();
        made->request = &request;
        made->parent = parent;
        made->next = entries_;
        entries_ = made;
        return *made;
    }

    Entry* find(const Request* request) {
        for (Entry* at = entries_; at; at = at->next) {
            if (at->request == request) return at;
        }
        return nullptr;
    }

    void add_child(Request& parent, Request& child) {
        Entry* in = find(&parent);
        if (!in) in = root_;                 // a capture's children do not reach the client
        auto* item = main_.arena.make<Entry::Item>();
        item->child = &entry(child, in);
        in->items.push_back(*item);
    }

    Verdict submit(Request& request, core::Chain&& body) {
        Entry* at = find(&request);
        if (!at) return Verdict::pass();
        if (at->items.empty() && has_turn(*at)) return pass_on(std::move(body), at == root_);
        if (!at->items.empty() && !at->items.back().child) {
            at->items.back().piece.append(std::move(body));
            return Verdict::pass();
        }
        auto* item = main_.arena.make<Entry::Item>();
        item->piece = std::move(body);
        at->items.push_back(*item);
        return Verdict::pass();
    }

    // Only the address is looked at: it may be gone.
    void child_finished(const Request* child) {
        if (Entry* at = find(child)) {
            at->finished = true;
            at->request = nullptr;
        }
        advance(*root_);
        if (main_.finishing_ && !main_.done) main_.finish();
    }

  private:
    bool has_turn(const Entry& entry) const {
        for (const Entry* at = &entry; at->parent; at = at->parent) {
            auto& items = at->parent->items;
            if (items.empty() || const_cast<core::List<Entry::Item>&>(items).front().child != at) {
                return false;
            }
        }
        return true;
    }

    Verdict pass_on(core::Chain&& body, bool from_main) {
        core::Chain chain = std::move(body);
        if (!from_main) {
            for (core::Buffer* at = chain.head(); at; at = at->next) {
                at->flags &= uint8_t(~core::Buffer::last);
            }
        }
        if (chain.empty()) return Verdict::pass();
        return main_.send_ordered(std::move(chain));
    }

    // Lets through what is first in line; true when `entry` has nothing more to wait for.
    bool advance(Entry& entry) {
        while (!entry.items.empty()) {
            Entry::Item& first = entry.items.front();
            if (first.child) {
                if (!advance(*first.child) || !first.child->finished) return false;
                first.unlink();
                continue;
            }
            core::Chain piece = std::move(first.piece);
            first.unlink();
            pass_on(std::move(piece), &entry == root_);
        }
        return true;
    }

    Request& main_;
    Entry* root_;
    Entry* entries_ = nullptr;
};

namespace {

class PostponedExchange final : public ChildExchange {
  public:
    using ChildExchange::ChildExchange;

    void send_head(Request&) override {}
    void send_body(Request& request, core::Chain&& body) override {
        request.body_bytes_sent += body.bytes();
        submit_ordered(request, std::move(body));
    }
    int64_t pending_bytes() const override { return child->main->exchange->pending_bytes(); }

  protected:
    void ended() override {
        if (child->main->order) child->main->order->child_finished(child);
        ChildExchange::ended();
    }
};

Request* create_child(Request& parent, const SubrequestOptions& options, ChildExchange& exchange) {
    if (parent.subrequest_depth_left == 0) {
        LOG(parent.log, error, 0, "subrequests cycle while processing \"%.*s\"",
            int(options.uri.size()), options.uri.data());
        return nullptr;
    }
    Request* child = Request::create_subrequest(parent, exchange);
    exchange.child = child;
    child->head = parent.head;
    child->method = options.method;
    child->head.method_name = options.method_name;
    child->set_uri(options.uri);
    child->args = options.args;
    child->variables = parent.variables;
    for (const Header& field : parent.headers) {
        if (!field.removed) child->headers.add(field.name, field.value, field.id);
    }
    if (options.inherit_body && parent.body.complete()) child->body.share(parent.body);
    exchange.awaited = !options.background;
    if (exchange.awaited) ++parent.running_children;
    return child;
}

}  // namespace

void child_ended(Request& parent) {
    --parent.running_children;
    if (parent.finishing_ && parent.running_children == 0 && !parent.done) parent.finish();
}

void ChildExchange::ended() {
    Request& parent = *child->parent;
    bool counts = std::exchange(awaited, false);
    SubrequestDone done = std::exchange(done_, nullptr);
    if (done) done(*child, argument_);      // may destroy the child
    if (counts) child_ended(parent);
}

Request* create_capture(Request& parent, const SubrequestOptions& options, SubrequestDone done,
                        void* argument) {
    auto* exchange = parent.arena.make<CaptureExchange>(done, argument);
    Request* child = create_child(parent, options, *exchange);
    if (child) child->plain_refusals = true;
    return child;
}

CapturedResponse& captured(Request& child) {
    return static_cast<CaptureExchange*>(ChildExchange::of(child))->response;
}

Request* create_postponed(Request& parent, const SubrequestOptions& options, SubrequestDone done,
                          void* argument) {
    auto* exchange = parent.arena.make<PostponedExchange>(done, argument);
    Request* child = create_child(parent, options, *exchange);
    if (child) OutputOrder::of(*parent.main).add_child(parent, *child);
    return child;
}

Verdict submit_ordered(Request& request, core::Chain&& body) {
    return request.main->order->submit(request, std::move(body));
}

void start_subrequest(Request& child) {
    ChildExchange::of(child)->start();
}

void destroy_subrequest(Request& child) {
    ChildExchange* exchange = ChildExchange::of(child);
    if (!exchange) return Request::destroy(&child);     // with its parent, which waits no more
    Request& parent = *child.parent;
    OutputOrder* order = child.main->order;
    const Request* gone = &child;
    exchange->forget();
    exchange->drop_response();
    bool awaited = std::exchange(exchange->awaited, false);
    Request::destroy(&child);
    if (order) order->child_finished(gone);
    if (awaited) child_ended(parent);
}

}  // namespace server

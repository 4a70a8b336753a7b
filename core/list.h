// Intrusive doubly linked list. A node unlinks itself when destroyed, so an object that dies can
// never be reached through a list it was in. Inserting and removing are O(1) and never allocate.
#pragma once

#include <cstddef>

namespace core {

class ListNode {
  public:
    ListNode() = default;
    ListNode(const ListNode&) = delete;
    ListNode& operator=(const ListNode&) = delete;
    ~ListNode() { unlink(); }

    bool linked() const { return next_ != this; }

    void unlink() {
        next_->prev_ = prev_;
        prev_->next_ = next_;
        next_ = prev_ = this;
    }

  protected:
    void link_before(ListNode& at) {
        unlink();
        prev_ = at.prev_;
        next_ = &at;
        at.prev_->next_ = this;
        at.prev_ = this;
    }

    ListNode* next_ = this;
    ListNode* prev_ = this;

    template <class>
    friend class List;
};

// T must derive from ListNode (or from a base that does, exactly once).
template <class T>
class List : private ListNode {
  public:
    bool empty() const { return next_ == this; }
    void push_back(T& item) { node(item).link_before(*this); }
    void push_front(T& item) { node(item).link_before(*next_); }
    T& front() { return static_cast<T&>(*next_); }
    T& back() { return static_cast<T&>(*prev_); }

    T* pop_front() {
        if (empty()) return nullptr;
        T& first = front();
        node(first).unlink();
        return &first;
    }

    // Moves every item of `from` to the end of this list, in order.
    void take_all(List& from) {
        if (from.empty() || &from == this) return;
        from.next_->prev_ = prev_;
        prev_->next_ = from.next_;
        from.prev_->next_ = this;
        prev_ = from.prev_;
        from.next_ = from.prev_ = &from;
    }

    // Calls f(T&) for each item; f may unlink the item it is given, and no other.
    template <class F>
    void each(F&& f) {
        for (ListNode* at = next_; at != this;) {
            ListNode* following = at->next_;
            f(static_cast<T&>(*at));
            at = following;
        }
    }

  private:
    static ListNode& node(T& item) { return item; }
};

}  // namespace core

// The two formats of the status endpoint.
#include "server/metrics_page.h"

#include <charconv>
#include <cstring>

#include "core/text.h"

namespace server {

namespace {

namespace histogram = core::histogram;

double divisor(MetricColumn::Unit unit) {
    switch (unit) {
    case MetricColumn::one: return 1;
    case MetricColumn::nanoseconds: return 1e9;
    case MetricColumn::microseconds: return 1e6;
    case MetricColumn::milliseconds: return 1e3;
    }
    return 1;
}

void append_double(std::string& to, double value) {
    char room[32];
    auto end = std::to_chars(room, room + sizeof room, value).ptr;
    to.append(room, size_t(end - room));
}

void append_integer(std::string& to, int64_t value) {
    char room[24];
    to += core::format_number(value, room);
}

void append_value(std::string& to, const MetricColumn& column, int64_t value) {
    if (column.unit == MetricColumn::one) return append_integer(to, value);
    append_double(to, double(value) / divisor(column.unit));
}

void write_value(core::JsonWriter& json, const MetricColumn& column, int64_t value) {
    if (value == MetricRows::absent) {
        json.null();
    } else if (column.unit == MetricColumn::one) {
        json.value(value);
    } else {
        json.value(double(value) / divisor(column.unit));
    }
}

// "0.005", as `le` has it.
struct BoundTexts {
    std::string text[histogram::buckets];
    BoundTexts() {
        for (size_t i = 0; i < histogram::bounds; ++i) {
            std::string& bound = text[i];
            char room[32];
            char* last = room + sizeof room;
            double seconds = double(histogram::bounds_ns[i]) / 1e9;
            auto end = std::to_chars(room, last, seconds, std::chars_format::fixed).ptr;
            bound.assign(room, size_t(end - room));
        }
        text[histogram::bounds] = "+Inf";
    }
};
const std::string& bound_text(size_t bucket) {
    static const auto& texts = *new BoundTexts;
    return texts.text[bucket];
}

void write_histogram(core::JsonWriter& json, const int64_t* values) {
    if (*values == MetricRows::absent) {
        json.null();
        return;
    }
    int64_t count = 0;
    json.begin_object().key("buckets").begin_object();
    for (size_t i = 0; i < histogram::buckets; ++i) {
        count += values[i];
        json.member(bound_text(i), count);
    }
    json.end_object();
    json.member("count", count);
    json.member("sum", double(values[histogram::buckets]) / 1e9);
    json.end_object();
}

size_t width(const MetricColumn& column) {
    if (column.kind <= MetricColumn::text) return 0;
    return column.kind == MetricColumn::histogram ? histogram::counters : 1;
}

// Where a column's values begin in a row.
size_t value_at(const MetricTable& table, size_t column) {
    size_t at = 0;
    for (size_t i = 0; i < column; ++i) at += width(table.columns[i]);
    return at;
}

const char* type_name(MetricColumn::Kind kind) {
    switch (kind) {
    case MetricColumn::counter: return "counter";
    case MetricColumn::histogram: return "histogram";
    default: return "gauge";
    }
}

void append_help(std::string& to, core::Slice text) {
    for (char c : text) {
        if (c == '\\') to += "\\\\";
        else if (c == '\n') to += "\\n";
        else to += c;
    }
}

// What all lines of a row begin their braces with: its labels, each with a comma behind it.
void append_labels(std::string& to, const MetricRows& rows, size_t row) {
    size_t text = 0;
    for (const MetricColumn& column : rows.table->columns) {
        if (column.kind > MetricColumn::text) continue;
        if (column.kind == MetricColumn::label) {
            to += column.key;
            to += "=\"";
            append_label_value(to, rows.text(row, text));
            to += "\",";
        }
        ++text;
    }
}

// {labels,…} without the last comma, or nothing.
void append_braces(std::string& to, const std::string& labels, const char* more) {
    if (labels.empty() && !more) return;
    to += '{';
    to += labels;
    if (more) to += more;
    else to.pop_back();
    to += '}';
}

void append_histogram(std::string& to, const char* metric, const std::string& labels,
                      const int64_t* values) {
    int64_t count = 0;
    for (size_t i = 0; i < histogram::buckets; ++i) {
        count += values[i];
        to.append(metric).append("_bucket{").append(labels).append("le=\"");
        to.append(bound_text(i)).append("\"} ");
        append_integer(to, count);
        to += '\n';
    }
    to.append(metric).append("_sum");
    append_braces(to, labels, nullptr);
    to += ' ';
    append_double(to, double(values[histogram::buckets]) / 1e9);
    to.append("\n").append(metric).append("_count");
    append_braces(to, labels, nullptr);
    to += ' ';
    append_integer(to, count);
    to += '\n';
}

bool same_metric(const MetricColumn& a, const MetricColumn& b) {
    return a.metric && b.metric && !std::strcmp(a.metric, b.metric);
}

}  // namespace

void append_label_value(std::string& to, core::Slice value) {
    while (!value.empty()) {
        size_t length = core::utf8_length(value);
        if (length == 0) to += "\xEF\xBF\xBD";
        else if (value[0] == '\\') to += "\\\\";
        else if (value[0] == '"') to += "\\\"";
        else if (value[0] == '\n') to += "\\n";
        else to.append(value.data(), length);
        value.remove_prefix(length ? length : 1);
    }
}

const char* MetricsPage::content_type(Format format) {
    return format == Format::json ? "application/json"
                                  : "text/plain; version=0.0.4; charset=utf-8";
}

bool MetricsPage::write(std::string& to, size_t series) {
    written_ = 0;
    bool more = true;
    if (format_ == Format::json && table_ == 0 && !rows_) json_.begin_object();
    while (more && written_ < series) {
        if (!rows_) {
            more = next_table();
            // Taking it down was work enough for one piece if there is much of it.
            if (more) written_ += rows_->count() * rows_->table->columns.size() / 8;
        } else if (!(format_ == Format::json ? write_json() : write_text(to))) {
            rows_.reset();
        }
    }
    if (format_ == Format::json) {
        if (!more) json_.end_object();
        to += json_.take();
    }
    return more;
}

bool MetricsPage::next_table() {
    while (table_ < tables_.size() && !tables_[table_]->name) ++table_;
    if (table_ == tables_.size()) return false;
    rows_ = std::make_unique<MetricRows>(collect_rows(*tables_[table_++]));
    row_ = column_ = column_end_ = 0;
    begun_ = false;
    return true;
}

// One row, or what ends the table. False: it is through.
bool MetricsPage::write_json() {
    bool single = rows_->table->labels == 0;
    if (!begun_) {
        begun_ = true;
        json_.key(rows_->table->name);
        if (!single) json_.begin_array();
        else if (rows_->count() == 0) json_.begin_object().end_object();
    }
    if (row_ < rows_->count() && !(single && row_ > 0)) {
        write_json_row(row_++);
        return true;
    }
    if (!single) json_.end_array();
    return false;
}

void MetricsPage::write_json_row(size_t row) {
    const int64_t* value = rows_->values(row);
    size_t text = 0;
    json_.begin_object();
    for (const MetricColumn& column : rows_->table->columns) {
        bool is_text = column.kind <= MetricColumn::text;
        if (column.key) {
            json_.key(column.key);
            if (is_text) json_.value(rows_->text(row, text));
            else if (column.kind == MetricColumn::histogram) write_histogram(json_, value);
            else write_value(json_, column, *value);
            written_ += is_text ? 0 : width(column);
        }
        text += is_text;
        value += width(column);
    }
    json_.end_object();
}

// One row of one metric, or the head of the next metric. False: the table is through.
bool MetricsPage::write_text(std::string& to) {
    if (row_ == rows_->count()) row_ = 0, column_ = column_end_;
    if (column_ == column_end_) {
        begin_metric(to);
        return column_ < column_end_;
    }
    written_ += write_text_row(to, row_++);
    return true;
}

void MetricsPage::begin_metric(std::string& to) {
    auto columns = rows_->table->columns;
    if (rows_->count() == 0) column_ = columns.size();
    while (column_ < columns.size() && !columns[column_].metric) ++column_;
    column_end_ = column_;
    if (column_ == columns.size()) return;
    const MetricColumn& first = columns[column_];
    while (column_end_ < columns.size() && same_metric(first, columns[column_end_])) ++column_end_;
    if (first.help) {
        to.append("# HELP ").append(first.metric).append(" ");
        append_help(to, first.help);
        to += '\n';
    }
    to.append("# TYPE ").append(first.metric).append(" ").append(type_name(first.kind));
    to += '\n';
}

size_t MetricsPage::write_text_row(std::string& to, size_t row) {
    const MetricTable& table = *rows_->table;
    std::string labels;
    append_labels(labels, *rows_, row);
    size_t lines = 0;
    size_t at = value_at(table, column_);
    for (size_t i = column_; i < column_end_; ++i) {
        const MetricColumn& column = table.columns[i];
        const int64_t* value = rows_->values(row) + at;
        at += width(column);
        if (*value == MetricRows::absent) continue;
        lines += width(column);
        if (column.kind == MetricColumn::histogram) {
            append_histogram(to, column.metric, labels, value);
            continue;
        }
        to += column.metric;
        append_braces(to, labels, column.labels);
        to += ' ';
        append_value(to, column, *value);
        to += '\n';
    }
    return lines;
}

}  // namespace server

/* rANS streams as `ladon/codec/rans.py` specifies them, for devices without numba.
 *
 * Nothing is needed but a C99 compiler; on 64-bit processors no library, either (-nostdlib):
 *
 *     cc -O2 -shared -fPIC -o librans-$(uname -m).so rans.c
 *
 * What a caller answers for are the tables: `ladon.codec.cdf` has checked them. Everything else may
 * be hostile: no word is read or written outside of its buffer, rows that name no table are refused,
 * and every loop is bounded by the number of symbols.
 */

#include <stdint.h>

#define PRECISION 16
#define LOWER_BOUND ((uint64_t)1 << 31)
#define BYPASS_BITS 4
#define MAX_BYPASS_GROUPS 8
#define WORDS_PER_SYMBOL 2
#define LOOKUP_SHIFT 6
#define LOOKUP_SIZE (1 << (PRECISION - LOOKUP_SHIFT))

enum { TRUNCATED = 1, LEFT_OVER = 2, BAD_ESCAPE = 3, BAD_ROW = 4, NO_ROOM = 5 };

#define X_MAX (((LOWER_BOUND >> PRECISION) << 32))
#define BYPASS_MAX ((X_MAX) << (PRECISION - BYPASS_BITS))

/* What the loops read: `rows` tables of `width` entries, of which `length` are used. */
typedef struct {
    const int32_t *cdf;
    const int32_t *length;
    const int32_t *offset;
    int64_t rows;
    int64_t width;
} tables;

int32_t ladon_rans_version(void) { return 1; }

/* Puts the state's lower word before the others where the next symbol would not fit. */
static inline uint64_t make_room(uint64_t x, uint64_t limit, uint32_t *words, int64_t *position)
{
    if (x >= limit) {
        words[--*position] = (uint32_t)x;
        x >>= 32;
    }
    return x;
}

static inline uint64_t put_escape(uint64_t x, uint64_t raw, uint32_t *words, int64_t *position)
{
    int groups = 0;
    while (groups < MAX_BYPASS_GROUPS && (raw >> (BYPASS_BITS * groups)) != 0)
        groups++;
    for (int g = groups - 1; g >= -1; g--) {
        uint64_t bits = g >= 0 ? (raw >> (BYPASS_BITS * g)) & 15 : (uint64_t)groups;
        x = make_room(x, BYPASS_MAX, words, position);
        x = (x << BYPASS_BITS) | bits;
    }
    return x;
}

static inline int64_t encode(const int32_t *symbols, const uint8_t *rows, int64_t channels,
                             int64_t count, const tables *t, uint32_t *words, int64_t capacity)
{
    int64_t position = capacity;
    uint64_t x = LOWER_BOUND;
    for (int64_t c = channels - 1; c >= 0; c--) {
        for (int64_t n = count - 1; n >= 0; n--) {
            int64_t row = rows ? rows[c * count + n] : c;
            if (rows && row >= t->rows)
                return -BAD_ROW;
            const int32_t *cdf = t->cdf + row * t->width;
            int64_t last = (int64_t)t->length[row] - 2;
            int64_t value = (int64_t)symbols[c * count + n] - t->offset[row];
            if (value < 0 || value >= last) {
                int64_t raw = value < 0 ? -2 * value - 1 : 2 * (value - last);
                value = last;
                x = put_escape(x, (uint64_t)raw & 0xFFFFFFFF, words, &position);
            }
            uint64_t start = (uint64_t)cdf[value];
            uint64_t frequency = (uint64_t)cdf[value + 1] - start;
            x = make_room(x, X_MAX * frequency, words, &position);
            uint64_t quotient = x / frequency;
            x = (quotient << PRECISION) + (x - quotient * frequency) + start;
        }
    }
    words[--position] = (uint32_t)(x >> 32);
    words[--position] = (uint32_t)x;
    return position;
}

/* Encodes symbols [channels, count] from the last to the first into the end of `words`.
 *
 * `rows` is NULL where row c is channel c's, else the row of each symbol, like `symbols`.
 * Returns the index of the first word, or minus a reason.
 */
int64_t ladon_rans_encode(const int32_t *symbols, const uint8_t *rows, int64_t channels,
                          int64_t count, const int32_t *cdf, const int32_t *length,
                          const int32_t *offset, int64_t num_rows, int64_t width, uint32_t *words,
                          int64_t capacity)
{
    const tables t = {cdf, length, offset, num_rows, width};
    if (channels < 0 || count < 0 || capacity < 2)
        return -NO_ROOM;
    if (channels > 0 && count > (capacity - 2) / WORDS_PER_SYMBOL / channels)
        return -NO_ROOM;
    if (!rows && channels > num_rows)
        return -BAD_ROW;
    /* one loop for each way, as the compiler sees it */
    return rows ? encode(symbols, rows, channels, count, &t, words, capacity)
                : encode(symbols, 0, channels, count, &t, words, capacity);
}

/* Takes in the next word where the state has become small; returns whether there was one. */
static inline int refill(uint64_t *x, const uint32_t *words, int64_t total, int64_t *position)
{
    if (*x < LOWER_BOUND) {
        if (*position >= total)
            return 0;
        *x = (*x << 32) | words[(*position)++];
    }
    return 1;
}

static inline int take_bits(uint64_t *bits, uint64_t *x, const uint32_t *words, int64_t total,
                            int64_t *position)
{
    *bits = *x & 15;
    *x >>= BYPASS_BITS;
    return refill(x, words, total, position);
}

static inline int take_escape(int64_t *value, int64_t last, uint64_t *x, const uint32_t *words,
                              int64_t total, int64_t *position)
{
    uint64_t groups, bits, raw = 0;
    if (!take_bits(&groups, x, words, total, position))
        return TRUNCATED;
    if (groups > MAX_BYPASS_GROUPS)
        return BAD_ESCAPE;
    for (uint64_t g = 0; g < groups; g++) {
        if (!take_bits(&bits, x, words, total, position))
            return TRUNCATED;
        raw |= bits << (BYPASS_BITS * g);
    }
    int64_t half = (int64_t)(raw >> 1);
    *value = raw & 1 ? -half - 1 : half + last;
    return 0;
}

static inline int32_t decode(const uint32_t *words, int64_t total, const uint8_t *rows,
                             int64_t channels, int64_t count, const tables *t,
                             const int32_t *lookup, int32_t *symbols)
{
    uint64_t x = (uint64_t)words[0] | ((uint64_t)words[1] << 32);
    int64_t position = 2;
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t n = 0; n < count; n++) {
            int64_t row = rows ? rows[c * count + n] : c;
            if (rows && row >= t->rows)
                return BAD_ROW;
            const int32_t *cdf = t->cdf + row * t->width;
            int64_t last = (int64_t)t->length[row] - 2;
            int32_t cumulative = (int32_t)(x & 0xFFFF);
            int64_t value = lookup[row * LOOKUP_SIZE + (cumulative >> LOOKUP_SHIFT)];
            while (cdf[value + 1] <= cumulative)
                value++;
            uint64_t start = (uint64_t)cdf[value];
            uint64_t frequency = (uint64_t)cdf[value + 1] - start;
            x = frequency * (x >> PRECISION) + (uint64_t)cumulative - start;
            if (!refill(&x, words, total, &position))
                return TRUNCATED;
            if (value == last) {
                int reason = take_escape(&value, last, &x, words, total, &position);
                if (reason)
                    return reason;
            }
            symbols[c * count + n] = (int32_t)(uint32_t)(uint64_t)(value + t->offset[row]);
        }
    }
    return x == LOWER_BOUND && position == total ? 0 : LEFT_OVER;
}

/* Decodes `total` words to symbols [channels, count]; returns 0 or a reason.
 *
 * `rows` as for encoding; `lookup` as `ladon_rans_build_lookup` made it.
 */
int32_t ladon_rans_decode(const uint32_t *words, int64_t total, const uint8_t *rows,
                          int64_t channels, int64_t count, const int32_t *cdf,
                          const int32_t *length, const int32_t *offset, int64_t num_rows,
                          int64_t width, const int32_t *lookup, int32_t *symbols)
{
    const tables t = {cdf, length, offset, num_rows, width};
    if (total < 2)
        return TRUNCATED;
    if (!rows && channels > num_rows)
        return BAD_ROW;
    return rows ? decode(words, total, rows, channels, count, &t, lookup, symbols)
                : decode(words, total, 0, channels, count, &t, lookup, symbols);
}

/* Fills lookup [num_rows, 1024]: the symbol at each multiple of 64 of the cumulative frequency. */
void ladon_rans_build_lookup(const int32_t *cdf, const int32_t *length, int64_t num_rows,
                             int64_t width, int32_t *lookup)
{
    for (int64_t row = 0; row < num_rows; row++) {
        int32_t s = 0;
        for (int32_t i = 0; i < LOOKUP_SIZE; i++) {
            while (s < length[row] - 2 && cdf[row * width + s + 1] <= (i << LOOKUP_SHIFT))
                s++;
            lookup[row * LOOKUP_SIZE + i] = s;
        }
    }
}

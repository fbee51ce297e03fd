/* Runs rans.c on cases from the standard input, each in memory of exactly its size.
 *
 * A case is 6 int64 (has rows, channels, count, tables, width, words to decode),
 * then length, offset, cdf, symbols (int32), rows (uint8) and the words. What
 * comes out are, of each case, int64: the number of words encoded (or minus a reason) and the
 * status of decoding; then those words, and the symbols that were decoded.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rans.c"

static void *take(size_t size)
{
    void *made = malloc(size ? size : 1);
    if (!made || fread(made, 1, size, stdin) != size)
        exit(3);
    return made;
}

static void put(const void *data, size_t size)
{
    if (fwrite(data, 1, size, stdout) != size)
        exit(3);
}

static void run(const int64_t *head)
{
    const int64_t channels = head[1], count = head[2], num_rows = head[3], width = head[4];
    const size_t size = (size_t)(channels * count);
    int32_t *length = take((size_t)num_rows * 4), *offset = take((size_t)num_rows * 4);
    int32_t *cdf = take((size_t)(num_rows * width) * 4), *symbols = take(size * 4);
    uint8_t *rows = head[0] ? take(size) : NULL;
    uint32_t *given = take((size_t)head[5] * 4);

    const int64_t capacity = 2 * (int64_t)size + 2;
    uint32_t *words = malloc((size_t)capacity * 4);
    int32_t *lookup = malloc((size_t)num_rows * LOOKUP_SIZE * 4), *found = calloc(size + 1, 4);
    if (!words || !lookup || !found)
        exit(3);
    found = realloc(found, size ? size * 4 : 1);
    const int64_t first = ladon_rans_encode(symbols, rows, channels, count, cdf, length, offset,
                                            num_rows, width, words, capacity);
    ladon_rans_build_lookup(cdf, length, num_rows, width, lookup);
    const int64_t out[2] = {
        first < 0 ? first : capacity - first,
        ladon_rans_decode(given, head[5], rows, channels, count, cdf, length, offset, num_rows,
                          width, lookup, found)};
    put(out, sizeof out);
    if (first >= 0)
        put(words + first, (size_t)(capacity - first) * 4);
    put(found, size * 4);

    free(length), free(offset), free(cdf), free(symbols), free(rows), free(given);
    free(words), free(lookup), free(found);
}

int main(void)
{
    int64_t head[6];
    while (fread(head, sizeof head, 1, stdin) == 1)
        run(head);
    return 0;
}

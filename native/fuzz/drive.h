/* Turns bytes into calls of the engine: what the fuzzers and the thread and silence tests have in common. */
#ifndef SEKISHO_FUZZ_DRIVE_H
#define SEKISHO_FUZZ_DRIVE_H

#include "engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each four bytes are one call. Requests go to the table's own addresses more often than not. */
void drive_engine(struct sekisho_engine *engine, const uint8_t *script, size_t size);

/* Asks for every name and description. */
void describe_engine(struct sekisho_engine *engine);

void repair_checksum(uint8_t *table, size_t size);

/* The file's content, to be freed; NULL when it cannot be read. */
void *read_table(const char *path, size_t *size);

#endif

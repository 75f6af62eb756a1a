/* libFuzzer: any bytes as a sequence of events, on the table in the file that SEKISHO_FUZZ_TABLE names. */
#include <stdio.h>
#include <stdlib.h>

#include "drive.h"

static struct sekisho_engine *engine;

int LLVMFuzzerInitialize(int *count, char ***arguments);

int LLVMFuzzerInitialize(int *count, char ***arguments)
{
	const char *path = getenv("SEKISHO_FUZZ_TABLE");
	char error[128];
	size_t size;
	void *table = read_table(path, &size);

	(void)count;
	(void)arguments;
	engine = table == NULL ? NULL : sekisho_engine_open(table, size, error, sizeof error);
	free(table);
	if (engine == NULL) {
		fprintf(stderr, "SEKISHO_FUZZ_TABLE does not name a table\n");
		exit(2);
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	drive_engine(engine, data, size);
	sekisho_engine_reset(engine);
	return 0;
}

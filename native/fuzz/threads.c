/* Eight threads at one engine, for ThreadSanitizer: requests, answers, signals, resets, statistics at once. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "drive.h"

#define THREADS 8
#define ROUNDS 200

static struct sekisho_engine *engine;

static void *work(void *argument)
{
	uint32_t state = (uint32_t)(size_t)argument * 2654435761u + 1;
	uint8_t script[64];

	for (int round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < sizeof script; i++) {
			state = state * 1664525u + 1013904223u;
			script[i] = (uint8_t)(state >> 24);
		}
		drive_engine(engine, script, sizeof script);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	struct sekisho_statistics statistics;
	pthread_t threads[THREADS];
	char error[128];
	size_t size;
	void *table = read_table(count > 1 ? arguments[1] : NULL, &size);

	engine = table == NULL ? NULL : sekisho_engine_open(table, size, error, sizeof error);
	free(table);
	if (engine == NULL)
		return 2;
	for (size_t i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
			return 2;
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	sekisho_engine_statistics(engine, &statistics);
	printf("%llu\n", (unsigned long long)(statistics.guarded + statistics.followed + statistics.outside));
	sekisho_engine_close(engine);
	return 0;
}

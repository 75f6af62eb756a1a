/* Switches of every kind that compilers make jump tables of. Each case calls `use` with another number. */
extern void use(int);
extern int next(void);
extern volatile int flag;

struct request { int a; unsigned char kind; short level; long wide; };

/* The assembly keeps compilers from making a table of values, or arithmetic, of the cases. */
#define CASE(n) case n: asm volatile("# case " #n); use(n + 100); break;

void dense(int x) { switch (x) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) default: use(1); } use(2); }

void offset(int x) { switch (x) { CASE(1000) CASE(1001) CASE(1002) CASE(1003) CASE(1004) CASE(1007) } use(2); }

void negative(int x) { switch (x) { CASE(-3) CASE(-2) CASE(-1) CASE(0) CASE(1) CASE(2) default: use(7); } use(2); }

void holes(unsigned x) { switch (x) { CASE(3) CASE(5) CASE(6) CASE(9) CASE(10) CASE(14) CASE(15) } use(2); }

void masked(unsigned x)
{
	switch (x & 7) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) }
	use(2);
}

void byte(struct request *r) { switch (r->kind) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(9) } use(2); }

void level(struct request *r) { switch (r->level) { CASE(-1) CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) } use(2); }

void wide(struct request *r) { switch (r->wide) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) } use(2); }

void unchecked(int x)
{
	switch (x) {
	CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
	default: __builtin_unreachable();
	}
	use(2);
}

void two(int x, int y)
{
	switch (x) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) }
	switch (y) { CASE(20) CASE(21) CASE(22) CASE(23) CASE(24) CASE(25) default: use(0); }
}

void nested(int x, int y)
{
	switch (x) {
	CASE(0) CASE(1) CASE(2) CASE(3)
	case 4:
		switch (y) { CASE(40) CASE(41) CASE(42) CASE(43) CASE(44) default: use(3); }
		break;
	CASE(5)
	default: use(5);
	}
	use(2);
}

int interpreter(const unsigned char *code, int a, int b, int c, int d)
{
	for (;;) {
		switch (*code++) {
		case 0: return a;
		case 1: a += b; break;
		case 2: b = next(); break;
		case 3: use(a); c ^= a; break;
		case 4: d += c; use(d); break;
		case 5: a = d - c; break;
		case 6: if (flag) return b; break;
		case 7: switch (next()) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) } break;
		default: return -1;
		}
	}
}

void after_call(void)
{
	int x = next();

	use(x);
	switch (x) { CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) }
	use(next());
}

void guarded(int x)
{
	if (x < 2 || x > 9)
		return;
	use(x);
	switch (x) { CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) }
}

int many_live(int *p, int x, int n)
{
	int a = p[0], b = p[1], c = p[2], d = p[3], i;

	for (i = 0; i < n; i++) {
		switch (x + i) {
		case 10: a += next(); break;
		case 11: b += next(); break;
		case 12: c += next(); break;
		case 13: d += next(); break;
		case 14: a -= b; break;
		case 15: c -= d; use(c); break;
		case 16: a ^= d; use(a); break;
		}
		use(a + b + c + d);
	}
	return a * b * c * d;
}

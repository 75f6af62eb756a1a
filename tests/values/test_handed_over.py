"""What the driver hands to the kernel the kernel gets to know: it may change it, and call functions in it."""

from pathlib import Path

import pytest
from tests.objects import build
from tests.values.sets import allowed

from sekisho.flow import recover
from sekisho.image import load
from sekisho.values import full
from sekisho.values.options import Options

DRIVER = """
void offer(void (*)(void)), submit(void *), start(void *), wait(void *);
struct request { long gap[SIZE]; void (*end)(void *); void *more; };
#define out(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))
static void ended(void *request) { out(7); }
static void use(void)
{
	struct request inner = {0}, one = {0};
	BODY
}
int init_module(void) { offer(use); return 0; }
"""
BUILDS = [("-O0", "-fno-pie"), ("-O2", "-fno-pie", "-mcmodel=kernel"), ("-O2", "-m32", "-mregparm=3", "-fno-pie")]


def ports(driver: Path) -> tuple[int, ...]:
    """Return where the only request goes, if the function that makes it is seen to be called."""
    (site,) = full.report(full.interpret(recover(load(driver)), Options())).sites
    return site.ports


@pytest.mark.parametrize("options", BUILDS, ids=" ".join)
@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("one.end = ended; submit(&one); wait(&one);", id="handed over"),
        pytest.param("start(&one); one.end = ended; submit(&one); wait(&one);", id="known to the kernel before"),
        pytest.param("one.end = ended; submit(&one.gap); wait(&one);", id="handed over with what lies before it"),
        pytest.param(
            "inner.end = ended; one.more = &inner; submit(&one); wait(&one);", id="led to by what is handed over"
        ),
    ],
)
def test_a_function_in_an_object_on_the_stack_may_be_called(
    body: str, size: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    driver = build(tmp_path, DRIVER.replace("SIZE", str(size)).replace("BODY", body), *options)
    assert ports(driver) == (7,)


def test_a_function_that_is_not_handed_over_is_not_called(tmp_path: Path) -> None:
    body = "void (*volatile kept)(void *) = ended; (void)kept; submit(0);"
    driver = build(tmp_path, DRIVER.replace("SIZE", "1").replace("BODY", body), "-O2", "-fno-pie")
    assert ports(driver) == ()


def test_what_init_hands_to_the_kernel_the_kernel_may_change_at_once(tmp_path: Path) -> None:
    source = """
    struct config { unsigned long number; };
    int fill(struct config *);
    static struct config config;
    int init_module(void)
    {
        config.number = 5;
        fill(&config);
        asm volatile("outb %b0, $7" :: "a"(config.number));
        return 0;
    }
    """
    module = recover(load(build(tmp_path, source, "-O2", "-fno-pie", "-mcmodel=kernel")))
    ((_, values),) = allowed(full.interpret(module, Options())).values()
    assert all(each in values[0] for each in (5, 0x99))

"""What a driver does only if one of its own lists has an element, or only if it has none (`whole-lists`).

Request 1: an element comes. 2: one was found and taken out. 3: the list was found empty. 4: something else was done.
"""

from pathlib import Path

import pytest

from sekisho.engine import Engine
from sekisho.flow import recover
from sekisho.image import load
from sekisho.policy import Device, Policy
from sekisho.protocol.build import build_guarded
from sekisho.protocol.facts import Observer
from sekisho.protocol.model import Protocol
from sekisho.values import full
from tests.objects import build
from tests.protocol.test_guards import events

LIST = """
struct list {{ struct list *next, *prev; }};
struct item {{ long number; struct list list; }};
static struct list head = {{ &head, &head }}, other = {{ &other, &other }};
static struct item *current;
int __list_add_valid(struct list *, struct list *, struct list *), __list_del_entry_valid(struct list *);
int number(void), known(struct list *);
void offer(void (*)(struct item *)), done(struct item *);

#define request(port) asm volatile("outb %b0, %1" :: "a"(0), "N"(port))
#define item(pointer) ((struct item *)((char *)(pointer) - __builtin_offsetof(struct item, list)))
#define write_once(place, value) (*(struct list *volatile *)&(place) = (value))

static inline void list_link(struct list *new, struct list *prev, struct list *next)
{{
	{check_add}
	next->prev = new;
	new->next = next;
	new->prev = prev;
	write_once(prev->next, new);
}}

static inline void list_unlink(struct list *entry)
{{
	{check_del}
	entry->next->prev = entry->prev;
	write_once(entry->prev->next, entry->next);
}}

static inline void list_init(struct list *list)
{{
	write_once(list->next, list);
	list->prev = list;
}}

static void add(struct item *new)
{{
	request(1);
	{add}
}}

static void take(struct item *unused)
{{
	{take}
}}

static void more(struct item *some)
{{
	{more}
}}

int init_module(void)
{{
	offer(add);
	offer(take);
	offer(more);
	return 0;
}}
"""
CHECKS = {
    "check_add": "if (!__list_add_valid(new, prev, next)) return;",
    "check_del": "if (!__list_del_entry_valid(entry)) return;",
}
TAIL = "list_link(&new->list, head.prev, &head);"
FIRST = "list_link(&new->list, &head, head.next);"
SORTED = """
struct list *each = head.next;
while (each != &head && item(each)->number < new->number)
	each = each->next;
list_link(&new->list, each->prev, each);
"""
TAKE = """
struct list *first = head.next;
if (first == &head) { request(3); return; }
list_unlink(first); list_init(first);
request(2);
"""
CURRENT = """
if (!current) {
	struct list *first = head.next;
	current = first == &head ? 0 : item(first);
	if (current) list_unlink(first);
}
if (!current) { request(3); return; }
request(2);
done(current);
current = 0;
"""
SLOW = """
struct list *first = head.next;
if (first == &head) { request(3); return; }
request(2);
list_unlink(first);
"""


def protocol(
    folder: Path, *, add: str = TAIL, take: str = TAKE, more: str = "", checked: bool = True, without: str = ""
) -> Protocol:
    checks = CHECKS if checked else dict.fromkeys(CHECKS, "")
    code = LIST.format(add=add, take=take, more=more, **checks)
    driver = build(folder, code, "-O2", "-fno-pie", "-mcmodel=kernel", "-Wall")
    observer = full.interpret(recover(load(driver)), kind=Observer)
    assert isinstance(observer, Observer)
    names = [without] if without else []
    return build_guarded(
        *(observer.module, full.report(observer), observer.facts(), [(1, 15)]), name="driver", without=names
    )


def verdicts(found: Protocol, ports: str) -> list[bool]:
    policy = Policy(version=1, match="sequence", devices=(Device("ports", ("0x1-0xf",)),), protocols=(found,))
    with Engine(policy) as judge:
        return [judge.judge(event) is None for event in events("; ".join(f"out {port} 0" for port in ports.split()))]


def is_allowed(found: Protocol, ports: str) -> bool:
    """Whether the last request is; those before it are."""
    *before, last = verdicts(found, ports)
    assert all(before)
    return last


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "plain"])
@pytest.mark.parametrize("take", [TAKE, CURRENT, SLOW], ids=["take", "current", "slow"])
@pytest.mark.parametrize("add", [TAIL, FIRST, SORTED], ids=["tail", "first", "sorted"])
def test_an_element_is_found_only_after_one_has_come(add: str, take: str, checked: bool, tmp_path: Path) -> None:
    found = protocol(tmp_path, add=add, take=take, checked=checked)
    assert not is_allowed(found, "2")
    for sequence in ("3 1", "1 2 3", "1 1 2 2 3 3 1 2"):
        assert is_allowed(found, sequence)


@pytest.mark.parametrize("add", [TAIL, FIRST], ids=["tail", "first"])
def test_a_list_is_not_found_empty_as_long_as_an_element_is_there(add: str, tmp_path: Path) -> None:
    found = protocol(tmp_path, add=f"{add} request(4);")
    assert not is_allowed(found, "1 4 3")
    # Whether it was the only one is not known.
    assert is_allowed(found, "1 4 1 4 2 3")


@pytest.mark.parametrize(
    "more",
    [
        "request(4); list_unlink(&some->list);",
        "request(4); list_init(&head);",
        "request(4); if (known(&some->list)) list_init(&head);",
    ],
    ids=["an element known otherwise is taken out", "it is emptied", "it is perhaps emptied"],
)
def test_a_list_may_be_emptied(more: str, tmp_path: Path) -> None:
    found = protocol(tmp_path, more=more)
    assert is_allowed(found, "1 1 2 4 3")
    assert is_allowed(found, "1 1 4 2")


def test_an_emptied_list_has_no_element(tmp_path: Path) -> None:
    found = protocol(
        tmp_path,
        add="int i = number(); list_link(&new->list, head.prev, &head); if (i) request(4);",
        more="list_init(&head); request(5);",
    )
    assert is_allowed(found, "1 4 2")
    assert not is_allowed(found, "1 4 5 2")


def test_who_only_looks_takes_nothing_out(tmp_path: Path) -> None:
    more = "if (head.next == &head) request(5); else request(4);"
    found = protocol(tmp_path, more=more)
    assert not is_allowed(found, "4")
    assert is_allowed(found, "1 4 4 2")


def test_another_list_is_another(tmp_path: Path) -> None:
    add = "if (number()) list_link(&new->list, other.prev, &other); else list_link(&new->list, head.prev, &head);"
    found = protocol(tmp_path, add=add, more="if (other.next == &other) request(5); else request(4);")
    assert {each.name for each in found.globals} >= {"head_filled", "other_filled"}
    assert is_allowed(found, "1 1 2 4")
    assert not is_allowed(protocol(tmp_path, more="if (other.next == &other) request(5); else request(4);"), "1 4")


@pytest.mark.parametrize(
    "more",
    [
        "known(&head);",
        "static struct list *which; if (which) list_link(&some->list, which->prev, which); which = &head;",
        "list_init((struct list *)((char *)&head + 4));",
        "head.next = (struct list *)((char *)&head + number());",
    ],
    ids=["the kernel gets to know it", "it is pointed to", "its halves are written", "it is reckoned with"],
)
def test_a_list_that_others_may_change_is_not_followed(more: str, tmp_path: Path) -> None:
    found = protocol(tmp_path, more=more)
    assert "whole-lists" not in {note.name for note in found.assumptions}
    assert is_allowed(found, "2")


@pytest.mark.parametrize(("add", "take"), [(TAIL, "known(head.next);"), ("known(head.prev);", TAKE)], ids=["out", "in"])
def test_a_list_that_is_changed_in_ways_that_are_not_seen_is_not_followed(add: str, take: str, tmp_path: Path) -> None:
    more = "if (head.next == &head) request(5); else request(4);"
    found = protocol(tmp_path, add=add, take=take, more=more)
    assert "whole-lists" not in {note.name for note in found.assumptions}
    assert is_allowed(found, "4 5 1 4 5")


def test_which_element_it_is_decides_nothing(tmp_path: Path) -> None:
    more = """
    struct list *first = head.next;
    if (first == &head) return;
    request(4);
    if (first == &some->list) request(5);
    else if (item(first) == (struct item *)&other) request(6);
    else if ((long)first & 8) request(7);
    """
    for last in "5672":
        assert is_allowed(protocol(tmp_path, more=more), f"1 4 {last}")


def test_without_the_assumption_an_element_may_always_be_found(tmp_path: Path) -> None:
    assert "whole-lists" in {note.name for note in protocol(tmp_path).assumptions}
    found = protocol(tmp_path, without="whole-lists")
    assert "whole-lists" not in {note.name for note in found.assumptions}
    assert is_allowed(found, "2")

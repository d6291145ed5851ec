"""Who has which RouteTable."""

from xinfer.routes import RouteTable
from xinfer.supervisor.followers import Followers


def test_a_gateway_is_behind_until_it_asks_for_what_comes_after_a_table():
    followers = Followers()
    followers.has("one", (3, 7))
    followers.has("two", (2, 9))
    assert followers.behind(RouteTable(epoch=3, version=7)) == {"two"}
    followers.has("two", (3, 8))
    assert followers.behind(RouteTable(epoch=3, version=7)) == frozenset()


def test_the_dead_are_waited_for_once():
    followers = Followers()
    followers.has("dead", (1, 1))
    table = RouteTable(epoch=1, version=2)
    followers.forget(followers.behind(table))
    assert followers.behind(table) == frozenset()

r"""What PHP 8.4 wrote of one session, in each serializer, and what it is in Python.

$text = 'text'; $money = new Money; $list = [1];
$_SESSION = ['x' => &$text, 'y' => [&$text, "\xff"], 'o' => $money, 'p' => $money,
             's' => Suit::Hearts, 'c' => $list, 'd' => $list];
"""

from __future__ import annotations

from typing import Any, Final

from redis_sessions.php.data import PhpObject
from redis_sessions.php.session_formats import Serializer

_MONEY: Final = PhpObject("Money", {"amount": 5, "\0*\0currency": "EUR", "\0Money\0note": None})

SESSION: Final[dict[str, Any]] = {
    "x": "text",
    "y": ["text", b"\xff"],
    "o": _MONEY,
    "p": _MONEY,
    "s": PhpObject("Suit", "Hearts", "enum"),
    "c": [1],
    "d": [1],
}

_MONEY_WRITTEN: Final = (
    b'O:5:"Money":3:{s:6:"amount";i:5;s:11:"\0*\0currency";s:3:"EUR";s:11:"\0Money\0note";N;}'
)

_WHOLE: Final = (
    b'a:7:{s:1:"x";s:4:"text";s:1:"y";a:2:{i:0;R:2;i:1;s:1:"\xff";}s:1:"o";'
    + _MONEY_WRITTEN
    + b's:1:"p";r:5;s:1:"s";E:11:"Suit:Hearts";s:1:"c";a:1:{i:0;i:1;}s:1:"d";a:1:{i:0;i:1;}}'
)

_PARTS: Final = (
    b's:4:"text";',
    b'a:2:{i:0;R:1;i:1;s:1:"\xff";}',
    _MONEY_WRITTEN,
    b"r:4;",
    b'E:11:"Suit:Hearts";',
    b"a:1:{i:0;i:1;}",
    b"a:1:{i:0;i:1;}",
)

PAYLOADS: Final[dict[Serializer, bytes]] = {
    "php": b"".join(b"%c|%s" % pair for pair in zip(b"xyopscd", _PARTS, strict=True)),
    "php_binary": b"".join(b"\1%c%s" % pair for pair in zip(b"xyopscd", _PARTS, strict=True)),
    "php_serialize": _WHOLE,
    "laravel": b's:%d:"%s";' % (len(_WHOLE), _WHOLE),
    "igbinary": (
        b"\0\0\0\2\x14\7\x11\1x%\x11\4text\x11\1y\x14\2\6\0%\1\1\6\1\x11\1\xff"
        b"\x11\1o\x17\5Money\x14\3\x11\6amount\6\5\x11\x0b\0*\0currency\x11\3EUR"
        b"\x11\x0b\0Money\0note\0\x11\1p\x22\3\x11\1s\x17\4Suit\x27\x11\6Hearts"
        b"\x11\1c\x14\1\6\0\6\1\x11\1d\1\5"
    ),
    "msgpack": (
        b"\x88\xc0\1\xa1x\xa4text\xa1y\x92\xa4text\xa1\xff"
        b"\xa1o\x84\xc0\xa5Money\xa6amount\5\xab\0*\0currency\xa3EUR\xab\0Money\0note\xc0"
        b"\xa1p\x82\xc0\4\0\3\xa1s\x82\xc0\6\xa4Suit\xa6Hearts\xa1c\x91\1\xa1d\x91\1"
    ),
}

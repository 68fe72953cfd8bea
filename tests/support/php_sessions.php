<?php
// Reads and writes sessions for tests/support/php.py: each line of the input is a question.

enum Suit: string { case Hearts = 'H'; case Spades = 'S'; }
class Money { public $amount = 5; protected $currency = 'EUR'; private $note = null; }
class Blank { public int $id; public ?Money $price; public $name = 'x'; }

// PHP warns of this interface when it compiles the class; old applications have it all the same.
error_reporting(E_ALL & ~E_DEPRECATED);
eval('class Old implements Serializable {
    public function __construct(public string $text = "") {}
    public function serialize() { return "text=" . $this->text; }
    public function unserialize($data) { $this->text = substr($data, 5); }
}');

// A store of one session, in memory: what PHP's serializers read and write is all that counts.
class OneSession implements SessionHandlerInterface {
    public string $payload = '';
    public function open(string $path, string $name): bool { return true; }
    public function close(): bool { return true; }
    public function read(string $id): string|false { return $this->payload; }
    public function write(string $id, string $data): bool { $this->payload = $data; return true; }
    public function destroy(string $id): bool { return true; }
    public function gc(int $max): int|false { return 0; }
}

function described(mixed $value): mixed {
    return match (true) {
        is_null($value), is_bool($value) => $value,
        is_int($value) => ['int', (string) $value],
        is_float($value) => ['float', bin2hex(pack('E', $value))],
        is_string($value) => ['string', base64_encode($value)],
        is_array($value) => ['array', pairs($value)],
        $value instanceof UnitEnum => ['enum', base64_encode($value::class), base64_encode($value->name)],
        default => ['object', base64_encode($value::class), pairs((array) $value)],
    };
}

function pairs(array $values): array {
    $pairs = [];
    foreach ($values as $key => $value) {
        $pairs[] = [described($key), described($value)];
    }
    return $pairs;
}

ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
ini_set('session.gc_probability', '0');
$store = new OneSession();
session_set_save_handler($store, false);
while (($line = fgets(STDIN)) !== false) {
    $question = json_decode($line, true);
    $payload = base64_decode($question['payload']);
    if (str_contains($question['serializer'], 'json')) {
        $laravel = $question['serializer'] === 'laravel_json';
        $_SESSION = json_decode(($laravel && $payload ? unserialize($payload) : $payload) ?: '[]', true);
        eval($question['code']);
        $described = described($_SESSION);
        $payload = json_encode($_SESSION, JSON_UNESCAPED_UNICODE | JSON_PRESERVE_ZERO_FRACTION);
        $payload = $laravel ? serialize($payload) : $payload;
    } elseif ($question['serializer'] === 'laravel') {
        $_SESSION = $payload === '' ? [] : unserialize(unserialize($payload));
        eval($question['code']);
        $described = described($_SESSION);
        $payload = serialize(serialize($_SESSION));
    } else {
        ini_set('session.serialize_handler', $question['serializer']);
        session_id('one');
        $store->payload = $payload;
        session_start();
        eval($question['code']);
        $described = described($_SESSION);
        session_write_close();
        $payload = $store->payload;
    }
    $_SESSION = [];
    // Not `echo`: once something was sent, PHP refuses to change settings of sessions.
    fwrite(STDOUT, json_encode(['payload' => base64_encode($payload), 'data' => $described], 0, 1024) . "\n");
}

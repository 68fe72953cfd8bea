<?php
// The same shop with the sessions of Symfony or Laravel. `shop.php` includes it.

use Illuminate\Cache\RedisStore;
use Illuminate\Cache\Repository;
use Illuminate\Cookie\CookieValuePrefix;
use Illuminate\Encryption\Encrypter;
use Illuminate\Redis\RedisManager;
use Illuminate\Session\CacheBasedSessionHandler;
use Illuminate\Session\Store;
use Symfony\Component\HttpFoundation\Session\Session;
use Symfony\Component\HttpFoundation\Session\Storage\Handler\RedisSessionHandler;
use Symfony\Component\HttpFoundation\Session\Storage\NativeSessionStorage;

if ($framework === 'symfony') {
    require 'Symfony/Component/HttpFoundation/autoload.php';
    $redis = new Redis();
    $redis->connect('127.0.0.1', $port);
    $handler = new RedisSessionHandler($redis, ['prefix' => $prefix]);
    $session = new Session(new NativeSessionStorage([], $handler));
    $session->start();
    $forget = fn () => $session->invalidate();
    $regenerate = fn () => $session->migrate(true);
    $set = $session->set(...);
    $user = 'user';
} else {
    foreach (['Cache', 'Cookie', 'Encryption', 'Redis', 'Session'] as $part) {
        require "Illuminate/$part/autoload.php";
    }
    $name = 'laravel_session';
    $encrypter = new Encrypter(base64_decode($key), 'aes-256-cbc');
    $manager = new RedisManager(null, 'phpredis', [
        'options' => ['prefix' => $prefix],
        'default' => ['host' => '127.0.0.1', 'port' => $port],
    ]);
    $cache = new Repository(new RedisStore($manager, 'laravel_cache_', 'default'));
    $id = null;
    if (isset($_COOKIE[$name])) {
        $plain = $encrypter->decryptString($_COOKIE[$name]);
        $id = CookieValuePrefix::validate($name, $plain, $encrypter->getKey());
    }
    $session = new Store($name, new CacheBasedSessionHandler($cache, 120), $id);
    $session->start();
    $forget = fn () => $session->invalidate();
    $regenerate = fn () => $session->regenerate(true);
    $set = $session->put(...);
    $user = 'login_web_' . sha1('Illuminate\Auth\SessionGuard');
}
switch ($page) {
    case '/login':
        $regenerate();
        $set($user, (int) $_GET['user']);
        break;
    case '/logout':
        $forget();
        break;
    case '/add':
        $cart = $session->get('cart', []);
        $cart[$_GET['sku']] = ($cart[$_GET['sku']] ?? 0) + 1;
        $set('cart', $cart);
        break;
}
$session->save();
if ($framework === 'laravel') {
    $plain = CookieValuePrefix::create($name, $encrypter->getKey()) . $session->getId();
    setcookie($name, $encrypter->encryptString($plain), 0, '/');
}
header('Content-Type: application/json');
$seen = ['user' => $session->get($user), 'cart' => $session->get('cart', [])];
echo json_encode(['id' => $session->getId(), 'session' => $seen]);

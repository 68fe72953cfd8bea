<?php
// A small shop, such as one that was there before: each address does one thing to $_SESSION.
// The header X-Ini says with which settings, as JSON; without it, php.ini does.

error_reporting(E_ALL & ~E_DEPRECATED);
$wanted = json_decode($_SERVER['HTTP_X_INI'] ?? '{}', true);
$predis = $wanted['predis'] ?? null;
$prefix = $wanted['prefix'] ?? '';
$framework = $wanted['framework'] ?? null;
$port = $wanted['port'] ?? null;
$key = $wanted['key'] ?? null;
$page = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
foreach (['predis', 'prefix', 'framework', 'port', 'key'] as $ours) {
    unset($wanted[$ours]);
}
foreach ($wanted as $name => $value) {
    ini_set($name, $value);
}
if ($framework !== null) {
    require 'frameworks.php';
    return;
}
if ($predis !== null) {
    require 'Predis/autoload.php';
    $client = new Predis\Client($predis, ['prefix' => $prefix]);
    $handler = new Predis\Session\Handler($client, ['gc_maxlifetime' => 1440]);
    $handler->register();
}
session_start();
switch ($page) {
    case '/login':
        if (!isset($_GET['keep_id'])) {
            session_regenerate_id(!isset($_GET['keep_old']));
        }
        $_SESSION['user'] = ['id' => $_GET['user'], 'name' => 'Zoë'];
        break;
    case '/logout':
        session_destroy();
        $_SESSION = [];
        break;
    case '/regenerate':
        session_regenerate_id(!isset($_GET['keep_old']));
        break;
    case '/forget':
        if (isset($_GET['keep_old'])) {
            session_regenerate_id();
        }
        unset($_SESSION['user']);
        break;
    case '/add':
        $_SESSION['cart'][$_GET['sku']] = ($_SESSION['cart'][$_GET['sku']] ?? 0) + 1;
        break;
    case '/count':
        $count = $_SESSION['count'] ?? 0;
        usleep(random_int(0, 2000));
        $_SESSION['count'] = $count + 1;
        break;
    case '/object':
        $_SESSION[$_GET['name'] ?? 'seen'] = new ArrayObject(['a' => 1]);
        break;
}
session_write_close();
header('Content-Type: application/json');
echo json_encode(['id' => session_id(), 'session' => $_SESSION]);

# A version of gunicorn that does not know one of these passes it over here; on the command line it would not.
bind = "127.0.0.1:@{plain}"
chdir = "@{repository}"
worker_class = "gthread"
threads = 8
keepalive = 15
graceful_timeout = 2
control_socket_disable = True

"""A Django project, all in one file, that passes most paths on to another server: bodies stream in both directions.

``UPSTREAM=http://127.0.0.1:8000 gunicorn --threads 8 --chdir examples django_gateway``; or, in this folder,
``waitress-serve django_gateway:application``.
"""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path, re_path
from wsgi_gateway import answer

# A middleware that looks for a token in a form, as CsrfViewMiddleware does, reads all of the body: use csrf_exempt.
settings.configure(ROOT_URLCONF=__name__)


class Passed(StreamingHttpResponse):
    """An answer as it came; Django calls the body's close(), also when the client leaves, and the rest is aborted."""

    def __init__(self, status, headers, body):
        code, _, reason = status.partition(" ")
        super().__init__(body, status=int(code), reason=reason)
        del self["Content-Type"]  # which would say text/html
        self.cookie_lines = []
        for name, value in headers:
            if name.lower() == "set-cookie":
                self.cookie_lines.append((name, value))
            else:
                self[name] = f"{self[name]}, {value}" if name in self else value

    def items(self):
        """What Django gives to the server; a mapping has no room for a second Set-Cookie."""
        return [*super().items(), *self.cookie_lines]


def gateway(request):
    # Nothing here may touch request.body, POST or FILES: each reads all of the body. The gateway takes it from the
    # environ, piece by piece; request.read() would find nothing of a body in chunks.
    return Passed(*answer(request.environ))


urlpatterns = [path("django", lambda request: HttpResponse("This is Django's own.\n")), re_path("", gateway)]
application = get_wsgi_application()

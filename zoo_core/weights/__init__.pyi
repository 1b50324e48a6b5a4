from .cache.store import Cache as Cache
from .checkpoint.read import read_state_dict as read_state_dict
from .fetch_to_folder import fetch as fetch
from .proven_file import obtain as obtain
from .proven_file import obtain_file as obtain_file
from .request import Artefact as Artefact

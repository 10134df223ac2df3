"""Messages to customers; README.md has the map.

loop            follows the events and sends messages
notices         which events lead to a message
composing       a message from its templates: languages, values, formats, template_files, templates/
checking        whether every template can be used, with the orders of samples
message_port    the ports; email_door and sms_door send
"""
